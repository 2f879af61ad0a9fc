// How Python calls a kernel: a function that unpacks an array of pointers to the arguments, and a
// description of the parameters, both derived from the kernel's C++ type. It comes before the
// kernel's source, whose macros do not reach it; MINILLM_ENTRY is expanded behind that, and uses
// reserved names only.
#pragma once

namespace minillm_sim {

// module.py has a copy of this struct.
struct Parameter {
    char kind;        // i, u, f: integer, unsigned, floating point; b: bool; h: bf16; v: void; s: any other type
    char is_const;    // of a pointer: what it points to cannot be written through it
    short pointers;   // how many times it has to be followed
    int size;         // bytes of the value, after following the pointers (0 for void)
    int parts;        // 4 for float4, ...: kind and size/parts are those of a component
};

template <class T> struct Kind { static constexpr char kind = 's'; static constexpr int parts = 1; };
template <> struct Kind<void> { static constexpr char kind = 'v'; static constexpr int parts = 1; };
#define MINILLM_KIND(TYPE, LETTER) \
    template <> struct Kind<TYPE> { static constexpr char kind = LETTER; static constexpr int parts = 1; };
#define MINILLM_VECTOR_KIND(TYPE, LETTER, PARTS) \
    template <> struct Kind<TYPE> { static constexpr char kind = LETTER; static constexpr int parts = PARTS; };
MINILLM_KIND(bool, 'b')
MINILLM_KIND(char, 'i')
MINILLM_KIND(signed char, 'i')
MINILLM_KIND(short, 'i')
MINILLM_KIND(int, 'i')
MINILLM_KIND(long, 'i')
MINILLM_KIND(long long, 'i')
MINILLM_KIND(unsigned char, 'u')
MINILLM_KIND(unsigned short, 'u')
MINILLM_KIND(unsigned, 'u')
MINILLM_KIND(unsigned long, 'u')
MINILLM_KIND(unsigned long long, 'u')
MINILLM_KIND(float, 'f')
MINILLM_KIND(double, 'f')
MINILLM_KIND(__nv_bfloat16, 'h')
MINILLM_VECTOR_KIND(__nv_bfloat162, 'h', 2)
MINILLM_KIND(__half, 'f')
MINILLM_VECTOR_KIND(__half2, 'f', 2)
#define MINILLM_VECTOR_KINDS(NAME, LETTER)     \
    MINILLM_VECTOR_KIND(NAME##1, LETTER, 1)    \
    MINILLM_VECTOR_KIND(NAME##2, LETTER, 2)    \
    MINILLM_VECTOR_KIND(NAME##3, LETTER, 3)    \
    MINILLM_VECTOR_KIND(NAME##4, LETTER, 4)
MINILLM_VECTOR_KINDS(float, 'f')
MINILLM_VECTOR_KINDS(double, 'f')
MINILLM_VECTOR_KINDS(char, 'i')
MINILLM_VECTOR_KINDS(short, 'i')
MINILLM_VECTOR_KINDS(int, 'i')
MINILLM_VECTOR_KINDS(long, 'i')
MINILLM_VECTOR_KINDS(longlong, 'i')
MINILLM_VECTOR_KINDS(uchar, 'u')
MINILLM_VECTOR_KINDS(ushort, 'u')
MINILLM_VECTOR_KINDS(uint, 'u')
MINILLM_VECTOR_KINDS(ulong, 'u')
MINILLM_VECTOR_KINDS(ulonglong, 'u')

template <class T> struct Size { static constexpr int value = sizeof(T); };
template <> struct Size<void> { static constexpr int value = 0; };

template <class T> struct Describe {
    static constexpr Parameter value{Kind<T>::kind, 0, 0, Size<T>::value, Kind<T>::parts};
};
template <class T> struct Describe<const T> {
    static constexpr Parameter of = Describe<T>::value;
    static constexpr Parameter value{of.kind, 1, of.pointers, of.size, of.parts};
};
template <class T> struct Describe<volatile T> : Describe<T> {};
template <class T> struct Describe<T*> {
    static constexpr Parameter of = Describe<T>::value;
    static constexpr Parameter value{of.kind, of.is_const, short(of.pointers + 1), of.size, of.parts};
};
template <class T> struct Describe<T* const> : Describe<T*> {};

template <int... I> struct Indices {};
template <int N, int... I> struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I> struct MakeIndices<0, I...> { using type = Indices<I...>; };

template <class T> struct Plain { using type = T; };
template <class T> struct Plain<const T> { using type = T; };

template <class F> struct Entry;
template <class... P> struct Entry<void (*)(P...)> {
    static constexpr int __count = sizeof...(P);
    static constexpr Parameter __parameters[sizeof...(P) + 1] = {Describe<P>::value..., Parameter{}};
    template <int... I>
    static __attribute__((always_inline)) void __call(void (*kernel)(P...), void** arguments, Indices<I...>) {
        kernel(*static_cast<typename Plain<P>::type*>(arguments[I])...);
    }
};

}  // namespace minillm_sim

template <class F> using minillm_entry = minillm_sim::Entry<F>;
template <int N> using minillm_indices = typename minillm_sim::MakeIndices<N>::type;
using minillm_parameter = minillm_sim::Parameter;

// Names for kernel number INDEX of the module; the rest is a constant expression for its address.
#define MINILLM_ENTRY(INDEX, ...)                                                                                         \
    extern "C" __attribute__((__visibility__("default"), __no_sanitize__("thread", "bounds"))) void minillm_call_##INDEX( \
        void** __minillm_a) {                                                                                             \
        using __minillm_e = minillm_entry<decltype(__VA_ARGS__)>;                                                    \
        __minillm_e::__call(__VA_ARGS__, __minillm_a, minillm_indices<__minillm_e::__count>{});          \
    }                                                                                                                     \
    extern "C" __attribute__((__visibility__("default"))) const minillm_parameter* minillm_parameters_##INDEX(       \
        int* __minillm_n) {                                                                                               \
        using __minillm_e = minillm_entry<decltype(__VA_ARGS__)>;                                                    \
        *__minillm_n = __minillm_e::__count;                                                                              \
        return __minillm_e::__parameters;                                                                                 \
    }

// The most threads of a block by the launch bounds of kernel number INDEX.
#define MINILLM_BOUND(INDEX, ...) \
    extern "C" __attribute__((__visibility__("default"))) int minillm_bound_##INDEX() { return __VA_ARGS__; }

extern thread_local char minillm_dynamic_shared[];
extern "C" __attribute__((visibility("default"))) void* minillm_shared_anchor() { return minillm_dynamic_shared; }
