// cuRAND: generators. The numbers are our own Philox's (random.py), not cuRAND's: a generator is a seed and a place.
#include "calls.h"

enum { SUCCESS = 0, ALLOCATION_FAILED = 102, TYPE_ERROR = 103 };
enum { FIRST_PSEUDO = 100, LAST_PSEUDO = 161 };  // curandRngType; from 200 on: quasirandom

int curandCreateGenerator(Handle** generator, int type) {
    if (type < FIRST_PSEUDO || type > LAST_PSEUDO)
        return standin_unable(TYPE_ERROR, "curandCreateGenerator", "quasirandom numbers are not there");
    return (*generator = calloc(1, sizeof(Handle))) ? SUCCESS : ALLOCATION_FAILED;
}
int curandDestroyGenerator(Handle* generator) { return free(generator), SUCCESS; }
int curandGetVersion(int* version) { return *version = 10400, SUCCESS; }
int curandSetStream(Handle* generator, void* stream) { return generator->stream = stream, SUCCESS; }
int curandSetPseudoRandomGeneratorSeed(Handle* generator, unsigned long long seed) {
    return generator->seed = seed, generator->offset = 0, SUCCESS;
}
int curandSetGeneratorOffset(Handle* generator, unsigned long long offset) { return generator->offset = offset, SUCCESS; }
int curandSetGeneratorOrdering(Handle* generator, int order) { return (void)generator, (void)order, SUCCESS; }
