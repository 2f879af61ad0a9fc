// Python's handlers of signals, while a kernel keeps the interpreter waiting.
#pragma once

namespace minillm_sim {

// Runs the handlers of the signals that have come, on the OS thread that called the launch. If one
// raises an exception (Ctrl-C), it is kept in `raised` as PyErr_Fetch gives it, and the answer is
// true.
bool handler_raised(void* raised[3]);

}  // namespace minillm_sim
