// The values of the variables that are visible at a line: `minillm simulate --break`. The source
// has a call for each of them, which breakpoints.py puts there; it comes before the user's source.
#pragma once

extern "C" {
bool minillm_sim_stops();  // whether the thread that has come to the line is one whose values are wanted
void minillm_sim_local(const char* name);
void minillm_sim_put(char kind, const void* value, minillm_sim::size_t size, int parts);
void minillm_sim_put_pointer(const void* address, minillm_sim::size_t element);
void minillm_sim_put_text(const char* text);
}

namespace minillm_sim {

constexpr size_t kElementsShown = 8;  // of an array

template <class T> struct Bare { using type = T; };
template <class T> struct Bare<const T> : Bare<T> {};
template <class T> struct Bare<volatile T> : Bare<T> {};
template <class T> struct Bare<const volatile T> : Bare<T> {};
template <class T> struct Bare<T* __restrict> { using type = T*; };
template <class T> struct Bare<T* const __restrict> { using type = T*; };

// minillm_fields: those of the source's classes, which breakpoints.py writes; the more fields, the
// higher the rank.
template <int N> struct Rank : Rank<N - 1> {};
template <> struct Rank<0> {};

template <class T, bool is_enum = __is_enum(T), bool is_class = __is_class(T) || __is_union(T)> struct Shown {
    static void put(const void* value) {
        if (Kind<T>::kind == 's')
            minillm_sim_put('s', value, sizeof(T), 1);
        else
            minillm_sim_put(Kind<T>::kind, value, sizeof(T), Kind<T>::parts);
    }
};
template <class T> struct Shown<T, true, false> {
    static void put(const void* value) { Shown<typename Bare<__underlying_type(T)>::type>::put(value); }
};
template <class T> void put_value(const T& value);
}  // namespace minillm_sim

template <class T> void minillm_fields(const T& value, minillm_sim::Rank<0>) {
    minillm_sim_put('s', __builtin_addressof(value), sizeof(T), 1);
}
#define MINILLM_FIELD(NAME) (minillm_sim_put_text(#NAME), minillm_sim::put_value(value.NAME))

namespace minillm_sim {

constexpr int kMostFields = 64;

template <class T> struct Shown<T, false, true> {
    static void put(const T& value) {
        if constexpr (Kind<T>::kind != 's')
            minillm_sim_put(Kind<T>::kind, __builtin_addressof(value), sizeof(T), Kind<T>::parts);
        else
            minillm_fields(value, Rank<kMostFields>{});
    }
    static void put(const void* value) { put(*static_cast<const T*>(value)); }
};
template <class T> struct Shown<T*, false, false> {
    template <class U> struct Element { static constexpr size_t size = sizeof(U); };
    static void put(const void* value) {
        if constexpr (__is_same(typename Bare<T>::type, void))
            minillm_sim_put_pointer(*static_cast<void* const*>(value), 0);
        else
            minillm_sim_put_pointer(*static_cast<void* const*>(value), Element<T>::size);
    }
};
template <class R, class... P> struct Shown<R (*)(P...), false, false> {
    static void put(const void* value) { minillm_sim_put_pointer(*static_cast<void* const*>(value), 0); }
};
template <class T, size_t N> struct Shown<T[N], false, false> {
    static void put(const void* value) {
        minillm_sim_put_text("[");
        for (size_t i = 0; i < N && i < kElementsShown; ++i)
            put_value((*static_cast<const T(*)[N]>(value))[i]);
        minillm_sim_put_text(N > kElementsShown ? "..." : "]");
    }
};
template <class T> void put_value(const T& value) {
    using Plain = typename Bare<T>::type;
    Shown<Plain>::put(const_cast<const void*>(static_cast<const volatile void*>(__builtin_addressof(value))));
}

}  // namespace minillm_sim

// A local that is shown by its name; functions are not.
template <class T> void minillm_local(const char* name, const T& value) {
    minillm_sim_local(name);
    minillm_sim::put_value(value);
}
template <class T> void minillm_local(const char* name, const T (&value)[]) {  // extern __shared__
    minillm_sim_local(name);
    minillm_sim_put_text("[");
    for (minillm_sim::size_t i = 0; i < minillm_sim::kElementsShown; ++i) minillm_sim::put_value(value[i]);
    minillm_sim_put_text("...");
}
template <class R, class... P> void minillm_local(const char*, R (&)(P...)) {}
