// A shim over mpi.h. It exists because MPI's constants (MPI_COMM_WORLD, MPI_BYTE, MPI_STATUS_IGNORE...) are
// casts of globals that Swift cannot import, and because its handle types differ between implementations.
// Nothing of mpi.h leaks: all symbols start with cmpi_, handles are opaque bytes, constants are functions.
//
// Functions that return int return an MPI error code (0 = success) unless their comment says otherwise, and must be
// called from the thread that called cmpi_initialize.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/// A started message. Wide enough for every implementation's MPI_Request (asserted in CMPI.c).
typedef struct {
    uint64_t storage;
} cmpi_request;

/// Where this process stands. The node figures count the ranks that share memory with this one.
typedef struct {
    int rank;
    int size;
    int local_rank;
    int local_size;
    int local_core_count;  // cores that at least one rank of this node may run on
    int largest_tag;
} cmpi_world;

/// Initialises MPI (funneled threading, errors returned) and fills `world`. Collective.
/// On failure `*function` names the MPI call that failed.
int cmpi_initialize(cmpi_world *world, const char **function);

/// Frees what cmpi_initialize made and finalises MPI. Collective.
int cmpi_finalize(void);

/// Ends every process of the job with `exit_code`; does not return.
void cmpi_abort(int exit_code);

/// Channels are separate communicators: messages on different channels never match. The last one is for reports of
/// ranks that end the job.
enum { cmpi_channel_count = 3, cmpi_report_channel = 2 };

/// Starts a send or a receive of `byte_count` bytes; any size_t is allowed, as counts beyond int go through a
/// derived data type. `narrow_limit` is the largest count passed as a plain int (INT_MAX outside tests).
int cmpi_start_send(const void *buffer, size_t byte_count, int peer, int tag, int channel, size_t narrow_limit,
                    cmpi_request *request);
int cmpi_start_receive(void *buffer, size_t byte_count, int peer, int tag, int channel, size_t narrow_limit,
                       cmpi_request *request);

/// Makes progress; `*done` tells whether the message has completed, and then `*received` its length in bytes
/// (meaningless for sends).
int cmpi_test(cmpi_request *request, bool *done, size_t *received);

/// Lets MPI make progress on all messages; `*source` is a rank whose report has arrived, or -1.
int cmpi_progress(int *source);

/// Receives the report that cmpi_progress has found.
int cmpi_receive_report(void *buffer, size_t capacity, int source, size_t *received);

/// Gives up a message without waiting: a receive is cancelled if its message has not begun to arrive, anything else is
/// left to MPI, which may go on using the buffer.
void cmpi_abandon(cmpi_request *request, bool is_receive);

/// Whether `code` says that a message was longer than the buffer posted for it.
bool cmpi_is_truncation(int code);

/// Writes MPI's words for `code` into `text` (NUL-terminated, at most `capacity` bytes).
void cmpi_error_string(int code, char *text, size_t capacity);

/// Cores this process may run on, at least 1 (glibc declares sched_getaffinity for _GNU_SOURCE only, which Swift
/// does not see). Needs no MPI.
int cmpi_core_count(void);

/// The library's name and version, NUL-terminated; may be called before cmpi_initialize.
void cmpi_library_version(char *text, size_t capacity);
