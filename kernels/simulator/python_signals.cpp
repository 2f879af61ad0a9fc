#include "python_signals.h"

#include <dlfcn.h>

#include <type_traits>

namespace minillm_sim {

// Python.h, of whichever Python has loaded us.
struct PythonApi {
    int (*ensure)();
    void (*release)(int);
    int (*check_signals)();
    void (*fetch)(void**, void**, void**);
};

static PythonApi find_api() {
    PythonApi api;
    auto find = [](auto& function, const char* name) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(RTLD_DEFAULT, name));
    };
    find(api.ensure, "PyGILState_Ensure");
    find(api.release, "PyGILState_Release");
    find(api.check_signals, "PyErr_CheckSignals");
    find(api.fetch, "PyErr_Fetch");
    return api;
}

bool handler_raised(void* raised[3]) {
    static const PythonApi api = find_api();
    if (!api.ensure || !api.release || !api.check_signals || !api.fetch) return false;
    int state = api.ensure();
    bool failed = !raised[0] && api.check_signals();
    if (failed) api.fetch(&raised[0], &raised[1], &raised[2]);
    api.release(state);
    return failed;
}

}  // namespace minillm_sim
