/* A disk that tells what was synced, and fails when it is told to. For LD_PRELOAD; built by disk.py.

   EVERLOG_DISK_UNDER    only files below this directory
   EVERLOG_DISK_JOURNAL  a line for each call, written after it, in their order:
                           start PID                this library was loaded
                           sync INODE SIZE PATH     also of a directory
                           create PATH              a file or directory that was not there
                           rename NTH FROM<tab>TO   what was TO is SHADOW/NTH now, if there was one
                           unlink NTH PATH          as well
   EVERLOG_DISK_SHADOW   a directory on the same file system, for links to what was replaced or removed
   EVERLOG_DISK_FAIL     "write|sync NTH TIMES ERRNO": the NTH write or fsync there fails, and as many
                         as TIMES after it; a write that fails may have written half of its bytes
   EVERLOG_DISK_FULL     a path: as long as there is a file, all writes fail as EVERLOG_DISK_FAIL says
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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
static int (*real_open)(const char *, int, ...);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_mkdir)(const char *, mode_t);

static const char *under, *shadow, *full;
static int journal = -1;
static pthread_mutex_t names = PTHREAD_MUTEX_INITIALIZER; /* calls and their lines are in one order */
static long nth_shadow;
static int fail_writes, fail_errno;
static long fail_from = -1, fail_until;
static atomic_long calls;

__attribute__((constructor)) static void start(void) {
  real_write = dlsym(RTLD_NEXT, "write");
  real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
  real_writev = dlsym(RTLD_NEXT, "writev");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  real_open = dlsym(RTLD_NEXT, "open64");
  real_rename = dlsym(RTLD_NEXT, "rename");
  real_unlink = dlsym(RTLD_NEXT, "unlink");
  real_mkdir = dlsym(RTLD_NEXT, "mkdir");
  under = getenv("EVERLOG_DISK_UNDER");
  shadow = getenv("EVERLOG_DISK_SHADOW");
  full = getenv("EVERLOG_DISK_FULL");
  const char *path = getenv("EVERLOG_DISK_JOURNAL");
  if (path) journal = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (journal >= 0) {
    char line[32];
    int length = snprintf(line, sizeof line, "start %ld\n", (long)getpid());
    if (real_write(journal, line, (size_t)length) != length) abort();
  }
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
  size_t most = strlen(under); /* with its slash, which the directory itself has not */
  return !strncmp(path, under, most) || ((size_t)length == most - 1 && !strncmp(path, under, most - 1));
}

static int is_full(void) {
  int saved = errno;
  int found = !access(full, F_OK);
  errno = saved;
  return found;
}

static int fails(int is_write, int fd) {
  char path[4096];
  if (full && is_write && is_full() && ours(fd, path, sizeof path)) {
    errno = fail_errno;
    return 1;
  }
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

static void tell(const char *line, int length) {
  int saved = errno;
  if (real_write(journal, line, (size_t)length) != length) abort();
  errno = saved;
}

static int synced(int fd, int (*call)(int)) {
  struct stat before;
  char path[4096], line[4200];
  int told = journal >= 0 && ours(fd, path, sizeof path) && !fstat(fd, &before);
  if (fails(0, fd)) return -1;
  /* Of a directory nothing may change between the sync and its line: what came later is not synced. */
  int directory = told && S_ISDIR(before.st_mode);
  if (directory) pthread_mutex_lock(&names);
  int result = call(fd);
  if (told && !result)
    tell(line, snprintf(line, sizeof line, "sync %lu %lld %s\n", (unsigned long)before.st_ino,
                        (long long)before.st_size, path));
  if (directory) pthread_mutex_unlock(&names);
  return result;
}

int fsync(int fd) { return synced(fd, real_fsync); }
int fdatasync(int fd) { return synced(fd, real_fdatasync); }

/* A path that leads through the descriptor of a directory, /proc/self/fd/N/NAME, as the path that it is now. */
static const char *plain(const char *path, char *into, size_t size) {
  static const char through[] = "/proc/self/fd/";
  if (strncmp(path, through, strlen(through))) return path;
  const char *rest = strchr(path + strlen(through), '/');
  char link[64];
  if (!rest || (size_t)(rest - path) >= sizeof link) return path;
  snprintf(link, sizeof link, "%.*s", (int)(rest - path), path);
  int saved = errno;
  ssize_t length = readlink(link, into, size - 1);
  errno = saved;
  if (length < 0) return path;
  while (!strncmp(rest, "/./", 3)) rest += 2;
  snprintf(into + length, size - (size_t)length, "%s", rest);
  return into;
}

static int named(const char *path) {
  return journal >= 0 && shadow && under && !strncmp(path, under, strlen(under));
}

/* Keeps what is at a path, and says under which number. */
static long keep(const char *path) {
  char kept[4096];
  snprintf(kept, sizeof kept, "%s/%ld", shadow, ++nth_shadow);
  int saved = errno;
  if (link(path, kept) && errno != ENOENT) abort();
  errno = saved;
  return nth_shadow;
}

static int created(const char *path, int made) {
  char line[4200];
  if (made >= 0) tell(line, snprintf(line, sizeof line, "create %s\n", path));
  pthread_mutex_unlock(&names);
  return made;
}

static int opened(const char *given, int flags, mode_t mode) {
  char buffer[4096];
  const char *path = plain(given, buffer, sizeof buffer);
  if (!(flags & O_CREAT) || !named(path)) return real_open(path, flags, mode);
  pthread_mutex_lock(&names);
  int there = !access(path, F_OK);
  int fd = real_open(path, flags, mode);
  if (!there) return created(path, fd);
  pthread_mutex_unlock(&names);
  return fd;
}

static mode_t mode_of(int flags, va_list rest) {
  return flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = mode_of(flags, rest);
  va_end(rest);
  return opened(path, flags | O_LARGEFILE, mode);
}

int mkdir(const char *given, mode_t mode) {
  char buffer[4096];
  const char *path = plain(given, buffer, sizeof buffer);
  if (!named(path)) return real_mkdir(path, mode);
  pthread_mutex_lock(&names);
  int made = real_mkdir(path, mode);
  return created(path, made);
}

int rename(const char *given, const char *wanted) {
  char line[8400], first[4096], second[4096];
  const char *from = plain(given, first, sizeof first), *to = plain(wanted, second, sizeof second);
  if (!named(to)) return real_rename(from, to);
  pthread_mutex_lock(&names);
  long nth = keep(to);
  int result = real_rename(from, to);
  if (!result) tell(line, snprintf(line, sizeof line, "rename %ld %s\t%s\n", nth, from, to));
  pthread_mutex_unlock(&names);
  return result;
}

int unlink(const char *given) {
  char line[4200], buffer[4096];
  const char *path = plain(given, buffer, sizeof buffer);
  if (!named(path)) return real_unlink(path);
  pthread_mutex_lock(&names);
  long nth = keep(path);
  int result = real_unlink(path);
  if (!result) tell(line, snprintf(line, sizeof line, "unlink %ld %s\n", nth, path));
  pthread_mutex_unlock(&names);
  return result;
}
