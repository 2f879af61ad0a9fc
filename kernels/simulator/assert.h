// In place of the C library's <assert.h>: a failed assertion is a report, with its line and thread.
// As in C it follows NDEBUG each time it is included.
#undef assert
#ifdef NDEBUG
#define assert(...) ((void)0)
#else
#define assert(...) \
    ((__VA_ARGS__) ? void() : minillm_sim_trap("assertion failed: " #__VA_ARGS__, __builtin_FILE(), __builtin_LINE()))
#endif
