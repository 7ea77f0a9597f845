#define _GNU_SOURCE
#include "CMPI.h"

#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

_Static_assert(sizeof(MPI_Request) <= sizeof(((cmpi_request *)0)->storage), "cmpi_request must hold an MPI_Request");
_Static_assert(_Alignof(MPI_Request) <= _Alignof(cmpi_request), "cmpi_request must be aligned for an MPI_Request");
_Static_assert(sizeof(size_t) == sizeof(uint64_t), "message lengths are 64-bit");
_Static_assert(MPI_SUCCESS == 0, "callers test for 0");

static MPI_Comm channels[cmpi_channel_count];

static MPI_Request load(const cmpi_request *request) {
    MPI_Request handle;
    memcpy(&handle, &request->storage, sizeof handle);
    return handle;
}

static void store(cmpi_request *request, MPI_Request handle) {
    request->storage = 0;
    memcpy(&request->storage, &handle, sizeof handle);
}

// Launchers bind each rank to cores of its own, so one rank's mask does not tell how many cores the node's
// ranks share: only the union of all masks does.
static int count_local_cores(MPI_Comm node, int *count) {
    cpu_set_t mine, all;
    CPU_ZERO(&mine);
    CPU_ZERO(&all);
    sched_getaffinity(0, sizeof mine, &mine);
    int code = MPI_Allreduce(&mine, &all, (int)sizeof mine, MPI_BYTE, MPI_BOR, node);
    *count = CPU_COUNT(&all) > 0 ? CPU_COUNT(&all) : 1;
    return code;
}

int cmpi_core_count(void) {
    cpu_set_t mine;
    CPU_ZERO(&mine);
    return sched_getaffinity(0, sizeof mine, &mine) == 0 && CPU_COUNT(&mine) > 0 ? CPU_COUNT(&mine) : 1;
}

#define TRY(name, call)                 \
    do {                                \
        *function = name;               \
        int code_ = (call);             \
        if (code_ != MPI_SUCCESS) {     \
            return code_;               \
        }                               \
    } while (0)

int cmpi_initialize(cmpi_world *world, const char **function) {
    int provided = 0;
    TRY("MPI_Init_thread", MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided));
    if (provided < MPI_THREAD_FUNNELED) {
        return MPI_ERR_UNSUPPORTED_OPERATION;
    }
    TRY("MPI_Comm_set_errhandler", MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
    TRY("MPI_Comm_rank", MPI_Comm_rank(MPI_COMM_WORLD, &world->rank));
    TRY("MPI_Comm_size", MPI_Comm_size(MPI_COMM_WORLD, &world->size));
    for (int i = 0; i < cmpi_channel_count; i++) {
        // Duplicates inherit the error handler.
        TRY("MPI_Comm_dup", MPI_Comm_dup(MPI_COMM_WORLD, &channels[i]));
    }
    MPI_Comm node;
    TRY("MPI_Comm_split_type",
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, world->rank, MPI_INFO_NULL, &node));
    TRY("MPI_Comm_rank", MPI_Comm_rank(node, &world->local_rank));
    TRY("MPI_Comm_size", MPI_Comm_size(node, &world->local_size));
    TRY("MPI_Allreduce", count_local_cores(node, &world->local_core_count));
    TRY("MPI_Comm_free", MPI_Comm_free(&node));
    int *bound = NULL, found = 0;
    TRY("MPI_Comm_get_attr", MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &bound, &found));
    world->largest_tag = found ? *bound : 32767;  // the standard's minimum
    return MPI_SUCCESS;
}

int cmpi_finalize(void) {
    for (int i = 0; i < cmpi_channel_count; i++) {
        int code = MPI_Comm_free(&channels[i]);
        if (code != MPI_SUCCESS) {
            return code;
        }
    }
    return MPI_Finalize();
}

void cmpi_abort(int exit_code) {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
}

// The one place where a length becomes an int. Short messages are `byte_count` MPI_BYTEs; longer ones are one
// element of a type made of equal blocks and a remainder.
static int narrow(size_t byte_count, size_t limit, int *count, MPI_Datatype *type, bool *derived) {
    *derived = byte_count > limit;
    if (!*derived) {
        *count = (int)byte_count;
        *type = MPI_BYTE;
        return MPI_SUCCESS;
    }
    size_t block = limit < (1u << 20) ? limit : (1u << 20);
    if (byte_count / block > INT_MAX) {
        return MPI_ERR_COUNT;
    }
    MPI_Datatype block_type;
    int code = MPI_Type_contiguous((int)block, MPI_BYTE, &block_type);
    if (code != MPI_SUCCESS) {
        return code;
    }
    int lengths[2] = {(int)(byte_count / block), (int)(byte_count % block)};
    MPI_Aint offsets[2] = {0, (MPI_Aint)(byte_count - byte_count % block)};
    MPI_Datatype types[2] = {block_type, MPI_BYTE};
    code = MPI_Type_create_struct(2, lengths, offsets, types, type);
    MPI_Type_free(&block_type);
    *count = 1;
    return code != MPI_SUCCESS ? code : MPI_Type_commit(type);
}

int cmpi_start_send(const void *buffer, size_t byte_count, int peer, int tag, int channel, size_t narrow_limit,
                    cmpi_request *request) {
    int count;
    MPI_Datatype type;
    bool derived;
    int code = narrow(byte_count, narrow_limit, &count, &type, &derived);
    if (code != MPI_SUCCESS) {
        return code;
    }
    MPI_Request handle = MPI_REQUEST_NULL;
    code = MPI_Isend(buffer, count, type, peer, tag, channels[channel], &handle);
    if (derived) {
        MPI_Type_free(&type);  // MPI keeps the type until the message has completed
    }
    store(request, handle);
    return code;
}

int cmpi_start_receive(void *buffer, size_t byte_count, int peer, int tag, int channel, size_t narrow_limit,
                       cmpi_request *request) {
    int count;
    MPI_Datatype type;
    bool derived;
    int code = narrow(byte_count, narrow_limit, &count, &type, &derived);
    if (code != MPI_SUCCESS) {
        return code;
    }
    MPI_Request handle = MPI_REQUEST_NULL;
    code = MPI_Irecv(buffer, count, type, peer, tag, channels[channel], &handle);
    if (derived) {
        MPI_Type_free(&type);
    }
    store(request, handle);
    return code;
}

int cmpi_test(cmpi_request *request, bool *done, size_t *received) {
    MPI_Request handle = load(request);
    MPI_Status status;
    int flag = 0;
    int code = MPI_Test(&handle, &flag, &status);
    store(request, handle);
    *done = flag != 0;
    *received = 0;
    if (code == MPI_SUCCESS && flag) {
        MPI_Count bytes = 0;
        code = MPI_Get_elements_x(&status, MPI_BYTE, &bytes);
        *received = bytes > 0 ? (size_t)bytes : 0;
    }
    return code;
}

// The probe drives all channels, so that looking for reports costs nothing beyond the progress wanted anyway.
int cmpi_progress(int *source) {
    int flag = 0;
    MPI_Status status;
    int code = MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, channels[cmpi_report_channel], &flag, &status);
    *source = code == MPI_SUCCESS && flag ? status.MPI_SOURCE : -1;
    return code;
}

int cmpi_receive_report(void *buffer, size_t capacity, int source, size_t *received) {
    MPI_Status status;
    int count = 0;
    int code = MPI_Recv(buffer, (int)capacity, MPI_BYTE, source, MPI_ANY_TAG, channels[cmpi_report_channel], &status);
    if (code == MPI_SUCCESS) {
        code = MPI_Get_count(&status, MPI_BYTE, &count);
    }
    *received = count > 0 ? (size_t)count : 0;
    return code;
}

void cmpi_abandon(cmpi_request *request, bool is_receive) {
    MPI_Request handle = load(request);
    if (handle == MPI_REQUEST_NULL) {
        return;
    }
    if (is_receive) {
        MPI_Cancel(&handle);
    }
    MPI_Request_free(&handle);
    store(request, handle);
}

bool cmpi_is_truncation(int code) {
    int class = code;
    MPI_Error_class(code, &class);
    return class == MPI_ERR_TRUNCATE;
}

void cmpi_error_string(int code, char *text, size_t capacity) {
    char words[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (MPI_Error_string(code, words, &length) != MPI_SUCCESS) {
        words[0] = '\0';
    }
    snprintf(text, capacity, "%s", words);
}

void cmpi_library_version(char *text, size_t capacity) {
    char words[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0;
    MPI_Get_library_version(words, &length);
    snprintf(text, capacity, "%s", words);
    text[strcspn(text, "\n")] = '\0';
}
