// The driver's functions that CuPy looks up in libcuda.so.1: modules, kernels, launches. A launch is checked as a driver
// would and handed to the hook, where there is one. There is no cuInit on purpose: where NVRTC finds it, it goes on to ask the
// driver for tables that only NVIDIA's has.
#include <elf.h>

#include "standin.h"

enum { STATIC_SHARED = 48 * 1024, REGISTERS = 65536, MAX_PARAMETERS = 4096 };

typedef struct {
    unsigned offset, size;
} Parameter;
typedef struct {
    const void* module;
    char* name;
    int static_shared, shared_limit, registers, local, max_threads, parameters;
    Parameter* parameter;
    unsigned symbol;  // its number in the cubin
} Function;
typedef struct {
    Function* kernels;
    int count;
} Module;

// What happens at a launch: the hook's answer is the launch's error code. attach.Launch is the same struct.
typedef struct {
    const void* module;
    const char* name;
    unsigned grid[3], block[3], shared;
    void** arguments;
    int parameters, replayed, cooperative;
    const Parameter* parameter;
} Launch;
static int (*launch_hook)(const Launch*);
void standin_set_launch_hook(int (*hook)(const Launch*)) { launch_hook = hook; }

static const int CONTEXT;
int cuDevicePrimaryCtxRelease_v2(UNUSED int device) { return SUCCESS; }
int cuCtxGetCurrent(const void** context) { return *context = &CONTEXT, SUCCESS; }
int cuCtxSetCurrent(UNUSED const void* context) { return SUCCESS; }
int cuCtxGetDevice(int* device) { return *device = 0, SUCCESS; }
int cuStreamGetCtx(UNUSED void* stream, const void** context) { return *context = &CONTEXT, SUCCESS; }

// ------------------------------------------------------------------------------------------------------- what is in a cubin

// NVRTC hands out images that begin at any address, and section tables at any place in them.
typedef Elf64_Ehdr Header __attribute__((aligned(1)));
typedef Elf64_Shdr Section __attribute__((aligned(1)));
typedef Elf64_Sym SymbolOfElf __attribute__((aligned(1)));

typedef struct {
    const unsigned char* image;
    const Header* header;
    const Section* sections;
    const char* names;
} Cubin;

static Function* kernel_of(Module* module, const char* name) {
    for (int i = 0; i < module->count; i++)
        if (!strcmp(module->kernels[i].name, name)) return &module->kernels[i];
    return NULL;
}

// The kernels of a cubin are the functions of its symbol table.
static int read_kernels(const Cubin* cubin, Module* module) {
    for (int i = 0; i < cubin->header->e_shnum; i++) {
        if (cubin->sections[i].sh_type != SHT_SYMTAB) continue;
        const SymbolOfElf* symbols = (const SymbolOfElf*)(cubin->image + cubin->sections[i].sh_offset);
        const char* names = (const char*)(cubin->image + cubin->sections[cubin->sections[i].sh_link].sh_offset);
        size_t count = cubin->sections[i].sh_size / sizeof(Elf64_Sym);
        Function* kernels = realloc(module->kernels, (module->count + count) * sizeof(Function));
        if (!kernels && count) return cudaErrorMemoryAllocation;
        module->kernels = kernels;
        for (size_t j = 0; j < count; j++)
            if (ELF64_ST_TYPE(symbols[j].st_info) == STT_FUNC)
                kernels[module->count++] = (Function){.module = module, .name = strdup(names + symbols[j].st_name),
                                                      .max_threads = 1024, .symbol = j};
    }
    return SUCCESS;
}

// Sections .nv.info (of all kernels) and .nv.info.KERNEL are records: a format, an attribute, a value or its size.
typedef struct {
    unsigned attribute, size, words[3];
} Record;
static const unsigned char* next_record(const unsigned char* at, Record* record) {
    enum { WITH_SIZE = 4 };
    *record = (Record){.attribute = at[1], .size = at[0] == WITH_SIZE ? at[2] | at[3] << 8 : 0};
    at += 4;
    memcpy(record->words, at, record->size < sizeof record->words ? record->size : sizeof record->words);
    return at + record->size;
}

static int add_parameter(Function* kernel, unsigned ordinal, Parameter parameter) {
    if (ordinal >= MAX_PARAMETERS) return cudaErrorInvalidKernelImage;
    if ((int)ordinal >= kernel->parameters) {
        Parameter* grown = realloc(kernel->parameter, (ordinal + 1) * sizeof(Parameter));
        if (!grown) return cudaErrorMemoryAllocation;
        memset(grown + kernel->parameters, 0, (ordinal + 1 - kernel->parameters) * sizeof(Parameter));
        kernel->parameter = grown;
        kernel->parameters = ordinal + 1;
    }
    kernel->parameter[ordinal] = parameter;
    return SUCCESS;
}

// KPARAM_INFO has the place of one parameter among the arguments, and in the upper bits of its last word the size;
// MAX_THREADS comes from __launch_bounds__.
static int read_information(const unsigned char* at, size_t size, Function* kernel) {
    enum { MAX_THREADS = 0x05, KPARAM_INFO = 0x17, SIZE_SHIFT = 18 };
    Record r;
    int code = SUCCESS;
    for (const unsigned char* end = at + size; at + 4 <= end && !code;) {
        at = next_record(at, &r);
        if (r.attribute == MAX_THREADS && r.size >= 12) kernel->max_threads = r.words[0] * r.words[1] * r.words[2];
        if (r.attribute == KPARAM_INFO && r.size >= 12)
            code = add_parameter(kernel, r.words[1] & 0xffff, (Parameter){r.words[1] >> 16, r.words[2] >> SIZE_SHIFT});
    }
    return code;
}

// Registers of a thread and bytes of its local memory, by the number of the kernel's symbol.
static void read_common_information(const unsigned char* at, size_t size, Module* module) {
    enum { FRAME_SIZE = 0x11, REGCOUNT = 0x2f };
    Record r;
    for (const unsigned char* end = at + size; at + 4 <= end;) {
        at = next_record(at, &r);
        for (int i = 0; i < module->count && r.size >= 8; i++) {
            Function* kernel = &module->kernels[i];
            if (kernel->symbol != r.words[0]) continue;
            if (r.attribute == REGCOUNT) kernel->registers = r.words[1];
            if (r.attribute == FRAME_SIZE) kernel->local = r.words[1];
        }
    }
}

// From compute capability 9.0 on, .nv.shared.KERNEL begins with what is kept for the system.
static int own_shared(size_t size) {
    enum { RESERVED = 1024 };
    return (int)(standin_gpu->capability >= 90 && size >= RESERVED ? size - RESERVED : size);
}

static int read_sections(const Cubin* cubin, Module* module) {
    for (int i = 0; i < cubin->header->e_shnum; i++) {
        const Section* section = &cubin->sections[i];
        const char* name = cubin->names + section->sh_name;
        Function* kernel;
        int code;
        if (!strncmp(name, ".nv.shared.", 11) && (kernel = kernel_of(module, name + 11)))
            kernel->static_shared = own_shared(section->sh_size);
        if (!strcmp(name, ".nv.info")) read_common_information(cubin->image + section->sh_offset, section->sh_size, module);
        if (!strncmp(name, ".nv.info.", 9) && (kernel = kernel_of(module, name + 9)) &&
            (code = read_information(cubin->image + section->sh_offset, section->sh_size, kernel)))
            return code;
    }
    return SUCCESS;
}

static void free_module(Module* module) {
    for (int i = 0; i < module->count; i++) free(module->kernels[i].name), free(module->kernels[i].parameter);
    free(module->kernels);
    free(module);
}

int cuModuleLoad(UNUSED Module** module, const char* path) {
    char text[512];
    snprintf(text, sizeof text, "%.400s: machine code cannot be run without a GPU: give cupy.RawModule its source (code=)", path);
    standin_set_reason(text);
    return standin_ended(cudaErrorNotSupported);
}
int cuModuleLoadData(Module** module, const unsigned char* image) {
    int code = standin_broken();
    if (code) return code;
    const Header* header = (const Header*)image;
    if (memcmp(header->e_ident, ELFMAG, SELFMAG))
        return standin_refused(cudaErrorInvalidKernelImage, "a module that is no cubin (PTX is not there: compile for sm_%d)",
                               standin_gpu->capability);
    Cubin cubin = {image, header, (const Section*)(image + header->e_shoff), NULL};
    cubin.names = (const char*)(image + cubin.sections[header->e_shstrndx].sh_offset);
    Module* made = calloc(1, sizeof(Module));
    if (!made) return standin_failed(cudaErrorMemoryAllocation);
    if ((code = read_kernels(&cubin, made)) || (code = read_sections(&cubin, made))) {
        free_module(made);
        return standin_refused(code, "a cubin that cannot be read");
    }
    for (int i = 0; i < made->count; i++) made->kernels[i].shared_limit = STATIC_SHARED - made->kernels[i].static_shared;
    *module = made;
    return SUCCESS;
}
int cuModuleUnload(UNUSED Module* module) { return SUCCESS; }  // kept: graphs may still launch its kernels
int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    Function* found = kernel_of(module, name);
    if (!found) return standin_refused(cudaErrorSymbolNotFound, "no kernel %s in a module of %d", name, module->count);
    *function = found;
    return SUCCESS;
}

// Variables of a module (__device__, __constant__): only what carries launches out knows where they lie.
static int (*variable_hook)(const void* module, const char* name, void** address, size_t* size);
void standin_set_variable_hook(int (*hook)(const void*, const char*, void**, size_t*)) { variable_hook = hook; }
int cuModuleGetGlobal_v2(void** address, size_t* size, const Module* module, const char* name) {
    size_t ignored;
    if (!variable_hook) return standin_refused(cudaErrorNotSupported, "%s: variables of a module are there with --compute only", name);
    if (!size) size = &ignored;
    int code = standin_failed(variable_hook(module, name, address, size));
    return code ? code : standin_variable(*address, *size);
}

// ------------------------------------------------------------------------------------------------------ kernels' attributes

int cuFuncGetAttribute(int* value, int attribute, const Function* function) {
    switch (attribute) {  // CUfunction_attribute
        case 0: *value = function->max_threads; break;
        case 1: *value = function->static_shared; break;
        case 3: *value = function->local; break;
        case 4: *value = function->registers; break;
        case 5:
        case 6: *value = standin_gpu->capability; break;
        case 8: *value = function->shared_limit; break;
        case 9: *value = -1; break;  // the preferred part of shared memory: the default
        default: *value = 0;
    }
    return SUCCESS;
}
int cuFuncSetAttribute(Function* function, int attribute, int value) {
    if (attribute == 9) return SUCCESS;
    if (attribute != 8) return standin_failed(cudaErrorInvalidValue);  // MAX_DYNAMIC_SHARED_SIZE_BYTES
    if (value < 0 || value + function->static_shared > standin_largest_shared())
        return standin_refused(cudaErrorInvalidValue, "%s asks for %d bytes of dynamic shared memory beside %d, a block of sm_%d has %d",
                               function->name, value, function->static_shared, standin_gpu->capability, standin_largest_shared());
    function->shared_limit = value;
    return SUCCESS;
}

static int resident_blocks(const Function* function, int threads, size_t dynamic_shared) {
    const Gpu* gpu = standin_gpu;
    int warps = (threads + 31) / 32, blocks = gpu->blocks;
    size_t shared = function->static_shared + dynamic_shared + (gpu->capability >= 80 ? 1024 : 0);
    int by_threads = gpu->threads / (32 * warps), by_shared = shared ? (int)(gpu->shared_kilobytes * 1024 / shared) : blocks;
    int a_warp = (function->registers * 32 + 255) / 256 * 256;  // registers come to warps in units of 256
    int by_registers = a_warp ? REGISTERS / a_warp / warps : blocks;
    int least = by_threads < by_shared ? by_threads : by_shared;
    if (by_registers < least) least = by_registers;
    return least < blocks ? least : blocks;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const Function* function, int threads, size_t shared) {
    if (threads < 1 || threads > 1024) return standin_failed(cudaErrorInvalidValue);
    *blocks = threads > function->max_threads ? 0 : resident_blocks(function, threads, shared);
    return SUCCESS;
}
// The largest number of resident threads, of the blocks that reach it the largest.
int cuOccupancyMaxPotentialBlockSize(int* grid, int* block, const Function* function, size_t (*shared_of)(int), size_t shared, int limit) {
    int most = limit > 0 && limit < function->max_threads ? limit : function->max_threads, best = 0;
    *grid = *block = 0;
    for (int threads = most / 32 * 32; threads >= 32; threads -= 32) {
        int blocks = resident_blocks(function, threads, shared_of ? shared_of(threads) : shared);
        if (blocks * threads <= best) continue;
        best = blocks * threads;
        *block = threads;
        *grid = blocks * standin_gpu->multiprocessors;
    }
    return SUCCESS;
}

// ---------------------------------------------------------------------------------------------------------------- launches

static int launch_now(Launch* launch) {
    launch->replayed = standin_replaying;
    return launch_hook ? standin_after_hook(launch_hook(launch)) : SUCCESS;
}

// A launch with its arguments behind it, as a graph keeps it.
typedef struct {
    Launch launch;
    char bytes[];
} Noted;
static int launch_again(void* what) {
    Noted* noted = what;
    void* arguments[MAX_PARAMETERS];
    for (int i = 0; i < noted->launch.parameters; i++) arguments[i] = noted->bytes + noted->launch.parameter[i].offset;
    noted->launch.arguments = arguments;
    return launch_now(&noted->launch);
}
static Noted* noted(const Launch* launch) {
    size_t size = 0;
    for (int i = 0; i < launch->parameters; i++) {
        size_t end = launch->parameter[i].offset + launch->parameter[i].size;
        if (end > size) size = end;
    }
    Noted* made = malloc(sizeof(Noted) + size);
    if (!made) return NULL;
    made->launch = *launch;
    for (int i = 0; i < launch->parameters; i++)
        memcpy(made->bytes + launch->parameter[i].offset, launch->arguments[i], launch->parameter[i].size);
    return made;
}

static int check(const Function* f, const unsigned* grid, const unsigned* block, unsigned shared) {
    size_t threads = (size_t)block[0] * block[1] * block[2];
    if (!grid[0] || !grid[1] || !grid[2] || grid[0] > 2147483647u || grid[1] > 65535 || grid[2] > 65535 || !threads ||
        block[0] > 1024 || block[1] > 1024 || block[2] > 64 || threads > 1024)
        return standin_refused(cudaErrorInvalidValue, "%s: grid (%u, %u, %u) of blocks (%u, %u, %u)", f->name, grid[0], grid[1],
                               grid[2], block[0], block[1], block[2]);
    if ((int)threads > f->max_threads)
        return standin_refused(cudaErrorInvalidValue, "%s: blocks of %zu threads, its __launch_bounds__ say %d", f->name, threads,
                               f->max_threads);
    if ((threads + 31) / 32 * (size_t)((f->registers * 32 + 255) / 256 * 256) > REGISTERS)
        return standin_refused(cudaErrorLaunchOutOfResources, "%s: %zu threads of %d registers, a block has %d", f->name, threads,
                               f->registers, REGISTERS);
    if ((int)shared > f->shared_limit)
        return standin_refused(cudaErrorInvalidValue, "%s: %u bytes of dynamic shared memory, %d are granted", f->name, shared,
                               f->shared_limit);
    return SUCCESS;
}

static int launch_on(void* stream, Launch* launch, const Function* f) {
    standin_counted.launches++;
    int code = check(f, launch->grid, launch->block, launch->shared);
    if (code) return code;
    Capture* capture;
    if ((code = standin_take(stream, &capture))) return code;
    return capture ? standin_note(capture, stream, f->name, launch_again, noted(launch), NULL) : standin_ended(launch_now(launch));
}
int cuLaunchKernel(Function* f, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void* stream, void** arguments, UNUSED void** extra) {
    Launch launch = {f->module, f->name, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, arguments, f->parameters, 0,
                     0, f->parameter};
    return launch_on(stream, &launch, f);
}
int cuLaunchCooperativeKernel(Function* f, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                              unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** arguments) {
    size_t blocks = (size_t)grid_x * grid_y * grid_z, threads = (size_t)block_x * block_y * block_z;
    if (threads && threads <= 1024 &&
        blocks > (size_t)resident_blocks(f, (int)threads, shared) * standin_gpu->multiprocessors)
        return standin_refused(cudaErrorCooperativeLaunchTooLarge, "%s: %zu blocks do not fit on the GPU at once", f->name, blocks);
    Launch launch = {f->module, f->name, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, arguments, f->parameters, 0,
                     1, f->parameter};
    return launch_on(stream, &launch, f);
}
