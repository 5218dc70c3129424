/* What would the driver library answer on a recorded rig? A stand-in for libnvidia-ml.so.1, for tests.
 *
 * FAKE_NVML_FILE names the recording, read when NVML is initialised. One line per call:
 *
 *     <scope> <function>[/argument...] = <code> [value ...] [; <code> [value ...]]...
 *     0 nvmlDeviceGetTemperature/0 = 0 43 ; 0 44 ; 15
 *
 * scope: "sys", a device's index, or "*" for every device without a line of its own. value: a number, or a text in
 * double quotes. Several answers are handed out one per call, and the last one for ever after; with
 * FAKE_NVML_TICK_MS=n, one per n milliseconds since nvmlInit. A call without a line is NOT_SUPPORTED, as on a GeForce.
 * FAKE_NVML_FAULT="0 nvmlDeviceGetName 15 3" makes that call, from the fourth time on, answer 15 (GPU lost).
 * FAKE_NVML_LOST="0 PATH" makes every call about that device answer so, from when PATH is there.
 * Code 7777 never returns, 8888 crashes.
 * FAKE_NVML_LOG=path gets a line per call, `0 nvmlDeviceGetName -> 0`, so that a test sees what was asked.
 *
 * library.py builds it, with a stub for every other name that pynvml knows. -DCHECK_AGAINST_NVML_H compiles the same
 * functions against the vendor's header, where one is at hand, to prove their signatures.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

typedef unsigned u32;
typedef unsigned long long u64;

#ifdef CHECK_AGAINST_NVML_H
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include "nvml.h"
#else
enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_UNKNOWN = 999,
};
typedef int nvmlReturn_t;
typedef void *nvmlDevice_t;
typedef u32 nvmlTemperatureSensors_t, nvmlTemperatureThresholds_t, nvmlClockType_t, nvmlClockId_t,
    nvmlPcieUtilCounter_t, nvmlGpuTopologyLevel_t, nvmlGpuP2PCapsIndex_t, nvmlGpuP2PStatus_t, nvmlEnableState_t,
    nvmlMemoryErrorType_t, nvmlEccCounterType_t, nvmlComputeMode_t, nvmlPstates_t, nvmlBrandType_t,
    nvmlNvLinkCapability_t, nvmlNvLinkErrorCounter_t, nvmlIntNvLinkDeviceType_t, nvmlDeviceArchitecture_t,
    nvmlBusType_t, nvmlAffinityScope_t, nvmlPerfPolicyType_t;
typedef struct {
    char busIdLegacy[16];
    u32 domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;
typedef struct { u64 total, free, used; } nvmlMemory_t;
typedef struct { u32 version; u64 total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { u64 bar1Total, bar1Free, bar1Used; } nvmlBAR1Memory_t;
typedef struct { u32 gpu, memory; } nvmlUtilization_t;
typedef struct { u32 pid; u64 usedGpuMemory; u32 gpuInstanceId, computeInstanceId; } nvmlProcessInfo_t;
typedef struct { u64 referenceTime, violationTime; } nvmlViolationTime_t;
typedef struct { u32 version; nvmlTemperatureSensors_t sensorType; int temperature; } nvmlTemperature_t;
typedef struct { u32 version; int marginTemperature; } nvmlMarginTemperature_t;
typedef union { double dVal; u32 uiVal; u64 ullVal; } nvmlValue_t;
typedef struct {
    u32 fieldId, scopeId;
    long long timestamp, latencyUsec;
    int valueType, nvmlReturn;
    nvmlValue_t value;
} nvmlFieldValue_t;
#endif

#define API __attribute__((visibility("default")))
#define VALUES 64 /* in one answer */
#define TEXT 96    /* bytes in one text, its end included */
#define HANDLE_STRIDE 256

/* ---- the recording ---- */

struct line { char *scope, *key, *answers; u32 calls; };
struct answer { nvmlReturn_t code; int count; u64 number[VALUES]; char text[VALUES][TEXT]; };

static struct line *lines;
static int line_count, device_count, references, fault_calls;
static struct timespec started;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct line *add(const char *scope, const char *key, const char *answers) {
    lines = realloc(lines, sizeof *lines * (line_count + 1));
    lines[line_count] = (struct line){strdup(scope), strdup(key), strdup(answers), 0};
    return &lines[line_count++];
}

static void forget(void) {
    for (int i = 0; i < line_count; i++) {
        free(lines[i].scope);
        free(lines[i].key);
        free(lines[i].answers);
    }
    line_count = device_count = fault_calls = 0;
}

/* Driver not loaded, as real NVML says without its kernel module, where there is no recording. */
static nvmlReturn_t load(void) {
    const char *path = getenv("FAKE_NVML_FILE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (!file) return NVML_ERROR_DRIVER_NOT_LOADED;
    forget();
    char *text = NULL, *rest;
    size_t room = 0;
    while (getline(&text, &room, file) > 0) {
        text[strcspn(text, "\n")] = 0;
        char *sign = strstr(text, " = ");
        if (text[0] == '#' || !sign) continue;
        *sign = 0;
        char *scope = strtok_r(text, " \t", &rest), *key = strtok_r(NULL, " \t", &rest);
        if (!scope || !key) continue;
        add(scope, key, sign + 3);
        if (!strcmp(key, "nvmlDeviceGetCount_v2") && sign[3] == '0') device_count = atoi(sign + 4);
    }
    free(text);
    fclose(file);
    clock_gettime(CLOCK_MONOTONIC, &started);
    return NVML_SUCCESS;
}

static struct line *find(const char *scope, const char *key) {
    for (int i = line_count; i-- > 0;) /* a later line replaces an earlier one */
        if (!strcmp(lines[i].key, key) && !strcmp(lines[i].scope, scope)) return &lines[i];
    return NULL;
}

/* A device's line; one of "*" is copied first, so that each device has its own place in a sequence. */
static struct line *find_for(const char *scope, const char *key) {
    struct line *own = find(scope, key), *shared = strcmp(scope, "sys") ? find("*", key) : NULL;
    return own || !shared ? own : add(scope, key, shared->answers);
}

/* Which of the answers between semicolons it is this time. */
static const char *step(struct line *line) {
    const char *tick = getenv("FAKE_NVML_TICK_MS"), *answer = line->answers, *next;
    u64 number = line->calls++;
    if (tick && atoi(tick) > 0) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        number = ((now.tv_sec - started.tv_sec) * 1000 + (now.tv_nsec - started.tv_nsec) / 1000000) / atoi(tick);
    }
    while (number-- && (next = strstr(answer, " ; "))) answer = next + 3;
    return answer;
}

static void parse(const char *from, struct answer *answer) {
    char *end;
    answer->code = (nvmlReturn_t)strtol(from, &end, 0);
    for (from = end; answer->count < VALUES; from = end) {
        from += strspn(from, " ");
        if (!*from || *from == ';') return;
        char *text = answer->text[answer->count];
        if (*from == '"') {
            size_t length = strcspn(++from, "\"");
            snprintf(text, TEXT, "%.*s", (int)length, from);
            end = (char *)from + length + (from[length] == '"');
        } else {
            answer->number[answer->count] = *from == '-' ? (u64)strtoll(from, &end, 0) : strtoull(from, &end, 0);
            if (end == from) return;
        }
        answer->count++;
    }
}

static void note(const char *scope, const char *key, nvmlReturn_t code) {
    const char *path = getenv("FAKE_NVML_LOG");
    FILE *log = path ? fopen(path, "a") : NULL;
    if (!log) return;
    fprintf(log, "%s %s -> %d\n", scope, key, (int)code);
    fclose(log);
}

/* The code that FAKE_NVML_LOST or FAKE_NVML_FAULT has for this call, or what it would have been. */
static nvmlReturn_t faulted(const char *scope, const char *key, nvmlReturn_t code) {
    const char *fault = getenv("FAKE_NVML_FAULT"), *lost = getenv("FAKE_NVML_LOST");
    char scope_of_it[16], key_of_it[160];
    size_t length = strlen(scope);
    int is_its = lost && !strncmp(lost, scope, length) && lost[length] == ' ';
    if (is_its && !access(lost + length + 1, F_OK)) return NVML_ERROR_GPU_IS_LOST;
    int code_of_it, after = 0;
    if (!fault || sscanf(fault, "%15s %159s %d %d", scope_of_it, key_of_it, &code_of_it, &after) < 3) return code;
    if (strcmp(scope, scope_of_it) || strcmp(key, key_of_it) || fault_calls++ < after) return code;
    if (code_of_it == 7777) note(scope, key, (nvmlReturn_t)code_of_it);
    while (code_of_it == 7777) pause();
    if (code_of_it == 8888) raise(SIGSEGV);
    return (nvmlReturn_t)code_of_it;
}

/* A device, or a part of one: its lines have a scope of their own. -1 where there is none. */
static int index_of(nvmlDevice_t device) {
    long index = (long)(size_t)device / HANDLE_STRIDE - 1;
    if (index >= 0 && index < device_count) return (int)index;
    for (int i = 0; i < line_count; i++)
        if (index >= 0 && strcmp(lines[i].scope, "sys") && atol(lines[i].scope) == index) return (int)index;
    return -1;
}

static nvmlDevice_t handle_of(int index) { return (nvmlDevice_t)(size_t)((index + 1) * HANDLE_STRIDE); }

/* The next answer of a call, with at least as many values as it must return. `index` -1 is the system. */
static nvmlReturn_t ask(int index, int values, struct answer *answer, const char *key_format, ...) {
    char key[160], scope[16] = "sys";
    va_list arguments;
    va_start(arguments, key_format);
    vsnprintf(key, sizeof key, key_format, arguments);
    va_end(arguments);
    if (index >= 0) snprintf(scope, sizeof scope, "%d", index);
    memset(answer, 0, sizeof *answer);
    answer->code = NVML_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    struct line *line = references > 0 ? find_for(scope, key) : NULL;
    if (references <= 0) answer->code = NVML_ERROR_UNINITIALIZED;
    if (line) parse(step(line), answer);
    if (!answer->code && answer->count < values) answer->code = NVML_ERROR_UNKNOWN;
    answer->code = faulted(scope, key, answer->code);
    note(scope, key, answer->code);
    pthread_mutex_unlock(&lock);
    return answer->code;
}

#define ASK(values, ...)                                                                     \
    struct answer answer;                                                                    \
    if (index_of(device) < 0) return references > 0 ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED; \
    if (ask(index_of(device), values, &answer, __VA_ARGS__)) return answer.code
#define ASK_SYSTEM(values, ...) \
    struct answer answer;       \
    if (ask(-1, values, &answer, __VA_ARGS__)) return answer.code

static nvmlReturn_t put_text(const struct answer *answer, char *out, u32 room) {
    if (strlen(answer->text[0]) + 1 > room) return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(out, answer->text[0]);
    return NVML_SUCCESS;
}

/* ---- families of calls: one number, two numbers, one number by one or two arguments, a text ---- */

#define NUMBER(name, type)                              \
    API nvmlReturn_t name(nvmlDevice_t device, type *out) { \
        ASK(1, #name);                                  \
        *out = (type)answer.number[0];                  \
        return NVML_SUCCESS;                            \
    }
#define PAIR(name, type)                                             \
    API nvmlReturn_t name(nvmlDevice_t device, type *one, type *two) { \
        ASK(2, #name);                                               \
        *one = (type)answer.number[0];                               \
        *two = (type)answer.number[1];                               \
        return NVML_SUCCESS;                                         \
    }
#define NUMBER_BY(name, by, type)                                  \
    API nvmlReturn_t name(nvmlDevice_t device, by which, type *out) { \
        ASK(1, #name "/%u", (u32)which);                           \
        *out = (type)answer.number[0];                             \
        return NVML_SUCCESS;                                       \
    }
#define NUMBER_BY_TWO(name, by, and_by, type)                                    \
    API nvmlReturn_t name(nvmlDevice_t device, by which, and_by other, type *out) { \
        ASK(1, #name "/%u/%u", (u32)which, (u32)other);                          \
        *out = (type)answer.number[0];                                           \
        return NVML_SUCCESS;                                                     \
    }
#define NAMED(name)                                                \
    API nvmlReturn_t name(nvmlDevice_t device, char *out, u32 room) { \
        ASK(1, #name);                                             \
        return put_text(&answer, out, room);                       \
    }
#define SYSTEM_TEXT(name)                      \
    API nvmlReturn_t name(char *out, u32 room) { \
        ASK_SYSTEM(1, #name);                  \
        return put_text(&answer, out, room);   \
    }

/* ---- life cycle ---- */

API nvmlReturn_t nvmlInitWithFlags(u32 flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    nvmlReturn_t code = references ? NVML_SUCCESS : load();
    references += !code;
    pthread_mutex_unlock(&lock);
    if (code) return code;
    struct answer answer;
    code = ask(-1, 0, &answer, "nvmlInitWithFlags");
    if (!code || code == NVML_ERROR_NOT_SUPPORTED) return NVML_SUCCESS; /* no line: it starts */
    references--;
    return code;
}

API nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); } /* torch asks under this name */

API nvmlReturn_t nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    nvmlReturn_t code = references > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
    references -= !code;
    pthread_mutex_unlock(&lock);
    return code;
}

API const char *nvmlErrorString(nvmlReturn_t code) { return code ? "recorded error" : "Success"; }

/* Every name of pynvml's that has no function here comes to this one. */
nvmlReturn_t fakenvml_unserved(const char *name, nvmlReturn_t code) {
    pthread_mutex_lock(&lock);
    note("?", name, code);
    pthread_mutex_unlock(&lock);
    return code;
}

/* ---- system, and which device is which ---- */

SYSTEM_TEXT(nvmlSystemGetDriverVersion)
SYSTEM_TEXT(nvmlSystemGetNVMLVersion)

API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    ASK_SYSTEM(1, "nvmlSystemGetCudaDriverVersion_v2");
    *version = (int)answer.number[0];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

API nvmlReturn_t nvmlSystemGetProcessName(u32 pid, char *out, u32 room) {
    ASK_SYSTEM(1, "nvmlSystemGetProcessName/%u", pid);
    return put_text(&answer, out, room);
}

API nvmlReturn_t nvmlDeviceGetCount_v2(u32 *count) {
    ASK_SYSTEM(1, "nvmlDeviceGetCount_v2");
    *count = (u32)answer.number[0];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCount(u32 *count) { return nvmlDeviceGetCount_v2(count); }

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(u32 index, nvmlDevice_t *out) {
    nvmlDevice_t device = handle_of((int)index);
    struct answer answer;
    if (references > 0 && (int)index >= device_count) return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t code = ask((int)index, 0, &answer, "nvmlDeviceGetHandleByIndex_v2");
    if (code && code != NVML_ERROR_NOT_SUPPORTED) return code; /* no line: it is there */
    *out = device;
    return NVML_SUCCESS;
}

/* The device whose `getter` says `wanted`; with `tail`, only that many last letters count. */
static nvmlReturn_t by_text(const char *getter, const char *wanted, size_t tail, nvmlDevice_t *out) {
    if (references <= 0) return NVML_ERROR_UNINITIALIZED;
    for (int index = 0; index < device_count; index++) {
        struct answer answer;
        if (ask(index, 1, &answer, "%s", getter)) continue;
        size_t have = strlen(answer.text[0]), want = strlen(wanted);
        const char *one = answer.text[0] + (tail && have > tail ? have - tail : 0);
        const char *other = wanted + (tail && want > tail ? want - tail : 0);
        if (strcasecmp(one, other)) continue;
        *out = handle_of(index);
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *out) {
    return by_text("nvmlDeviceGetUUID", uuid, 0, out);
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *out) {
    return by_text("nvmlDeviceGetPciInfo_v3", bus_id, strlen("0000:01:00.0"), out); /* domains of 4 or 8 digits */
}

/* ---- identity ---- */

NAMED(nvmlDeviceGetName)
NAMED(nvmlDeviceGetUUID)
NAMED(nvmlDeviceGetSerial)
NAMED(nvmlDeviceGetVbiosVersion)
NAMED(nvmlDeviceGetBoardPartNumber)
NUMBER(nvmlDeviceGetBrand, nvmlBrandType_t)
NUMBER(nvmlDeviceGetArchitecture, nvmlDeviceArchitecture_t)
NUMBER(nvmlDeviceGetMinorNumber, u32)
NUMBER(nvmlDeviceGetIndex, u32)
NUMBER(nvmlDeviceGetBoardId, u32)
NUMBER(nvmlDeviceGetMultiGpuBoard, u32)
NUMBER(nvmlDeviceGetBusType, nvmlBusType_t)
NUMBER(nvmlDeviceGetNumGpuCores, u32)
NUMBER(nvmlDeviceGetMemoryBusWidth, u32)
PAIR(nvmlDeviceGetCudaComputeCapability, int)

/* "00000000:01:00.0" device-id subsystem-id */
static nvmlReturn_t put_pci(const struct answer *answer, nvmlPciInfo_t *out) {
    memset(out, 0, sizeof *out);
    if (sscanf(answer->text[0], "%x:%x:%x", &out->domain, &out->bus, &out->device) != 3) return NVML_ERROR_UNKNOWN;
    out->pciDeviceId = (u32)answer->number[1];
    out->pciSubSystemId = (u32)answer->number[2];
    u32 domain = out->domain, bus = out->bus & 255, device = out->device & 255;
    snprintf(out->busId, sizeof out->busId, "%08X:%02X:%02X.0", domain, bus, device);
    snprintf(out->busIdLegacy, sizeof out->busIdLegacy, "%04X:%02X:%02X.0", domain & 0xffff, bus, device);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *out) {
    ASK(3, "nvmlDeviceGetPciInfo_v3");
    return put_pci(&answer, out);
}

/* ---- memory ---- */

API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *out) {
    ASK(3, "nvmlDeviceGetMemoryInfo");
    out->total = answer.number[0];
    out->free = answer.number[1];
    out->used = answer.number[2];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *out) {
    ASK(4, "nvmlDeviceGetMemoryInfo_v2");
    out->total = answer.number[0];
    out->reserved = answer.number[1];
    out->free = answer.number[2];
    out->used = answer.number[3];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *out) {
    ASK(3, "nvmlDeviceGetBAR1MemoryInfo");
    out->bar1Total = answer.number[0];
    out->bar1Free = answer.number[1];
    out->bar1Used = answer.number[2];
    return NVML_SUCCESS;
}

/* ---- heat, fans, power, clocks ---- */

NUMBER_BY(nvmlDeviceGetTemperature, nvmlTemperatureSensors_t, u32)
NUMBER_BY(nvmlDeviceGetTemperatureThreshold, nvmlTemperatureThresholds_t, u32)

API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *out) {
    char scope[16]; /* recorded under the older name; a fault may be of this one alone */
    snprintf(scope, sizeof scope, "%d", index_of(device));
    nvmlReturn_t code = faulted(scope, "nvmlDeviceGetTemperatureV/0", NVML_SUCCESS);
    if (code) note(scope, "nvmlDeviceGetTemperatureV/0", code);
    if (code) return code;
    ASK(1, "nvmlDeviceGetTemperature/%u", (u32)out->sensorType);
    out->temperature = (int)answer.number[0];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_t *out) {
    ASK(1, "nvmlDeviceGetMarginTemperature");
    out->marginTemperature = (int)answer.number[0];
    return NVML_SUCCESS;
}

NUMBER(nvmlDeviceGetFanSpeed, u32)
NUMBER(nvmlDeviceGetNumFans, u32)
NUMBER_BY(nvmlDeviceGetFanSpeed_v2, u32, u32)
NUMBER(nvmlDeviceGetPowerUsage, u32)
NUMBER(nvmlDeviceGetPowerManagementMode, nvmlEnableState_t)
NUMBER(nvmlDeviceGetPowerManagementLimit, u32)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, u32)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, u32)
PAIR(nvmlDeviceGetPowerManagementLimitConstraints, u32)
NUMBER(nvmlDeviceGetTotalEnergyConsumption, u64)
NUMBER_BY(nvmlDeviceGetClockInfo, nvmlClockType_t, u32)
NUMBER_BY(nvmlDeviceGetMaxClockInfo, nvmlClockType_t, u32)
NUMBER_BY(nvmlDeviceGetApplicationsClock, nvmlClockType_t, u32)
NUMBER_BY(nvmlDeviceGetDefaultApplicationsClock, nvmlClockType_t, u32)
NUMBER_BY(nvmlDeviceGetMaxCustomerBoostClock, nvmlClockType_t, u32)
NUMBER_BY_TWO(nvmlDeviceGetClock, nvmlClockType_t, nvmlClockId_t, u32)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, u64)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, u64)
NUMBER(nvmlDeviceGetSupportedClocksEventReasons, u64)
NUMBER(nvmlDeviceGetSupportedClocksThrottleReasons, u64)
NUMBER(nvmlDeviceGetPerformanceState, nvmlPstates_t)
PAIR(nvmlDeviceGetEncoderUtilization, u32)
PAIR(nvmlDeviceGetDecoderUtilization, u32)

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out) {
    ASK(2, "nvmlDeviceGetUtilizationRates");
    out->gpu = (u32)answer.number[0];
    out->memory = (u32)answer.number[1];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, nvmlPerfPolicyType_t policy,
                                              nvmlViolationTime_t *out) {
    ASK(2, "nvmlDeviceGetViolationStatus/%u", (u32)policy);
    out->referenceTime = answer.number[0];
    out->violationTime = answer.number[1];
    return NVML_SUCCESS;
}

/* nvmlDeviceGetFieldValues/<field>/<scope> = code type value: the call succeeds, each field has its own code. */
API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *fields) {
    if (references <= 0) return NVML_ERROR_UNINITIALIZED;
    if (index_of(device) < 0) return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < count; i++) {
        struct answer answer;
        fields[i].nvmlReturn = ask(index_of(device), 2, &answer, "nvmlDeviceGetFieldValues/%u/%u", fields[i].fieldId,
                                   fields[i].scopeId);
        fields[i].valueType = (int)answer.number[0];
        fields[i].value.ullVal = answer.number[1];
    }
    return NVML_SUCCESS;
}

/* ---- PCIe, topology, NVLink ---- */

NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, u32)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, u32)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, u32)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, u32)
NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, u32)
NUMBER(nvmlDeviceGetPcieReplayCounter, u32)
NUMBER(nvmlDeviceGetPcieSpeed, u32)
NUMBER(nvmlDeviceGetPcieLinkMaxSpeed, u32)
NUMBER_BY(nvmlDeviceGetPcieThroughput, nvmlPcieUtilCounter_t, u32)

API nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device, nvmlDevice_t other,
                                                     nvmlGpuTopologyLevel_t *out) {
    if (index_of(other) < 0) return NVML_ERROR_INVALID_ARGUMENT;
    ASK(1, "nvmlDeviceGetTopologyCommonAncestor/%d", index_of(other));
    *out = (nvmlGpuTopologyLevel_t)answer.number[0];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device, nvmlDevice_t other, nvmlGpuP2PCapsIndex_t capability,
                                        nvmlGpuP2PStatus_t *out) {
    if (index_of(other) < 0) return NVML_ERROR_INVALID_ARGUMENT;
    ASK(1, "nvmlDeviceGetP2PStatus/%d/%u", index_of(other), (u32)capability);
    *out = (nvmlGpuP2PStatus_t)answer.number[0];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceOnSameBoard(nvmlDevice_t device, nvmlDevice_t other, int *out) {
    if (index_of(other) < 0) return NVML_ERROR_INVALID_ARGUMENT;
    ASK(1, "nvmlDeviceOnSameBoard/%d", index_of(other));
    *out = (int)answer.number[0];
    return NVML_SUCCESS;
}

static nvmlReturn_t put_words(const struct answer *answer, u32 room, unsigned long *out) {
    if (room < (u32)answer->count) return NVML_ERROR_INSUFFICIENT_SIZE;
    memset(out, 0, room * sizeof *out);
    for (int i = 0; i < answer->count; i++) out[i] = (unsigned long)answer->number[i];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, u32 room, unsigned long *out) {
    ASK(1, "nvmlDeviceGetCpuAffinity");
    return put_words(&answer, room, out);
}

API nvmlReturn_t nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, u32 room, unsigned long *out,
                                                     nvmlAffinityScope_t scope) {
    ASK(1, "nvmlDeviceGetCpuAffinityWithinScope/%u", (u32)scope);
    return put_words(&answer, room, out);
}

API nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, u32 room, unsigned long *out,
                                             nvmlAffinityScope_t scope) {
    ASK(1, "nvmlDeviceGetMemoryAffinity/%u", (u32)scope);
    return put_words(&answer, room, out);
}

NUMBER(nvmlDeviceGetNumaNodeId, u32)
NUMBER_BY(nvmlDeviceGetNvLinkState, u32, nvmlEnableState_t)
NUMBER_BY(nvmlDeviceGetNvLinkVersion, u32, u32)
NUMBER_BY(nvmlDeviceGetNvLinkRemoteDeviceType, u32, nvmlIntNvLinkDeviceType_t)
NUMBER_BY_TWO(nvmlDeviceGetNvLinkCapability, u32, nvmlNvLinkCapability_t, u32)
NUMBER_BY_TWO(nvmlDeviceGetNvLinkErrorCounter, u32, nvmlNvLinkErrorCounter_t, u64)

API nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, u32 link, nvmlPciInfo_t *out) {
    ASK(3, "nvmlDeviceGetNvLinkRemotePciInfo_v2/%u", link);
    return put_pci(&answer, out);
}

/* ---- modes, errors, processes ---- */

PAIR(nvmlDeviceGetEccMode, nvmlEnableState_t)
PAIR(nvmlDeviceGetMigMode, u32)
NUMBER(nvmlDeviceGetMaxMigDeviceCount, u32)

/* Recorded as the scope of the part's own lines. */
API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, u32 place, nvmlDevice_t *out) {
    ASK(1, "nvmlDeviceGetMigDeviceHandleByIndex/%u", place);
    *out = handle_of((int)answer.number[0]);
    return NVML_SUCCESS;
}

NUMBER(nvmlDeviceGetPersistenceMode, nvmlEnableState_t)
NUMBER(nvmlDeviceGetComputeMode, nvmlComputeMode_t)
NUMBER(nvmlDeviceGetDisplayActive, nvmlEnableState_t)
NUMBER(nvmlDeviceGetDisplayMode, nvmlEnableState_t)
NUMBER_BY_TWO(nvmlDeviceGetTotalEccErrors, nvmlMemoryErrorType_t, nvmlEccCounterType_t, u64)

API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, u32 *correctable, u32 *uncorrectable, u32 *pending,
                                           u32 *failed) {
    ASK(4, "nvmlDeviceGetRemappedRows");
    *correctable = (u32)answer.number[0];
    *uncorrectable = (u32)answer.number[1];
    *pending = (u32)answer.number[2];
    *failed = (u32)answer.number[3];
    return NVML_SUCCESS;
}

/* Recorded as a process id and its bytes, for each process. */
static nvmlReturn_t put_processes(const struct answer *answer, u32 *count, nvmlProcessInfo_t *out) {
    u32 room = *count;
    *count = (u32)answer->count / 2;
    if (*count && (!out || room < *count)) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (u32 i = 0; i < *count; i++)
        out[i] = (nvmlProcessInfo_t){(u32)answer->number[2 * i], answer->number[2 * i + 1], ~0u, ~0u};
    return NVML_SUCCESS;
}

#define PROCESSES(name)                                                             \
    API nvmlReturn_t name(nvmlDevice_t device, u32 *count, nvmlProcessInfo_t *out) { \
        ASK(0, #name);                                                              \
        return put_processes(&answer, count, out);                                  \
    }
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3)
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3)
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v2) /* of drivers before 510 */
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v2)
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v2)
