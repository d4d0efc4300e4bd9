/* A disk that tells what was synced, and fails when it is told to. For LD_PRELOAD; built by disk.py.

   EVERLOG_DISK_UNDER    only files below this directory
   EVERLOG_DISK_JOURNAL  a line "INODE SIZE PATH" for each fsync, written after it
   EVERLOG_DISK_FAIL     "write|sync NTH TIMES ERRNO": the NTH write or fsync there fails, and as many
                         as TIMES after it; a write that fails may have written half of its bytes
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);

static const char *under;
static int journal = -1;
static int fail_writes, fail_errno;
static long fail_from = -1, fail_until;
static atomic_long calls;

__attribute__((constructor)) static void start(void) {
  real_write = dlsym(RTLD_NEXT, "write");
  real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
  real_writev = dlsym(RTLD_NEXT, "writev");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  under = getenv("EVERLOG_DISK_UNDER");
  const char *path = getenv("EVERLOG_DISK_JOURNAL");
  if (path) journal = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const char *fail = getenv("EVERLOG_DISK_FAIL");
  char what[16];
  long nth, times;
  if (fail && sscanf(fail, "%15s %ld %ld %d", what, &nth, &times, &fail_errno) == 4) {
    fail_writes = !strcmp(what, "write");
    fail_from = nth;
    fail_until = nth + times;
  }
}

/* The path of a file, if it is one of those that are looked at. */
static int ours(int fd, char *path, size_t size) {
  char link[64];
  int saved = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = under ? readlink(link, path, size - 1) : -1;
  errno = saved;
  if (length < 0) return 0;
  path[length] = 0;
  return !strncmp(path, under, strlen(under));
}

static int fails(int is_write, int fd) {
  char path[4096];
  if (fail_from < 0 || is_write != fail_writes || !ours(fd, path, sizeof path)) return 0;
  long call = atomic_fetch_add(&calls, 1) + 1;
  if (call < fail_from || call >= fail_until) return 0;
  errno = fail_errno;
  return 1;
}

ssize_t write(int fd, const void *data, size_t size) {
  if (fails(1, fd)) {
    if (size > 1) real_write(fd, data, size / 2);
    errno = fail_errno;
    return -1;
  }
  return real_write(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
  return fails(1, fd) ? -1 : real_pwrite(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { return pwrite(fd, data, size, at); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
  return fails(1, fd) ? -1 : real_writev(fd, parts, count);
}

static int synced(int fd, int (*call)(int)) {
  struct stat before;
  char path[4096], line[4200];
  int told = journal >= 0 && ours(fd, path, sizeof path) && !fstat(fd, &before);
  if (fails(0, fd)) return -1;
  int result = call(fd);
  if (told && !result) {
    int length = snprintf(line, sizeof line, "%lu %lld %s\n", (unsigned long)before.st_ino,
                          (long long)before.st_size, path);
    if (real_write(journal, line, (size_t)length) != length) abort();
  }
  return result;
}

int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }
