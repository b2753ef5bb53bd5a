// fsfault.c - LD_PRELOAD shim: disk faults for paths under a prefix, switched at run time by a control file.
// build: gcc -O2 -shared -fPIC -o libfsfault.so fsfault.c -ldl -pthread
// use:   FSFAULT_PREFIX=/data/n1 FSFAULT_CTL=/run/n1.ctl LD_PRELOAD=./libfsfault.so program
// control file: words "name=value" (looked at again when its mtime or size changes, at most every 10 ms):
//   sync_ms=N      every fsync/fdatasync/sync_file_range sleeps N ms first
//   sync_eio=P     P percent of fsync/fdatasync fail with EIO (100 = all)
//   write_ms=N     every write sleeps N ms
//   write_eio=P    P percent of writes fail with EIO
//   enospc=1       writes that grow a file, and creating files, fail with ENOSPC
//   short=P        P percent of writes write only half (a legal short write)
//   torn=P         P percent of writes put down only their first half, then the process is killed (SIGKILL)
//   sync_lie=1     fsync/fdatasync return 0 without syncing
//   read_eio=P     P percent of reads fail with EIO
//   match=STR      only paths that contain STR (e.g. match=.log, match=MANIFEST)
// FSFAULT_LOG=F: every fault that is thrown is one line in F, "NAME PATH".
// Does nothing for programs that make system calls without libc (Go, static musl) or by io_uring, nor for mmap stores.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAXFD 65536
static atomic_schar mine[MAXFD]; // 1 under the prefix, 2 under it and matching
static char prefix[512], ctl[512], match_[128]; static int logfd = -1;
static atomic_int sync_ms, sync_eio, write_ms, write_eio, enospc, short_, torn, sync_lie, read_eio;
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static atomic_llong next_look;
static _Thread_local unsigned rs;

#define REAL(ret, name, ...) static ret (*r_##name)(__VA_ARGS__)
REAL(int, open, const char *, int, ...); REAL(int, open64, const char *, int, ...);
REAL(int, openat, int, const char *, int, ...); REAL(int, openat64, int, const char *, int, ...);
REAL(int, creat, const char *, mode_t); REAL(int, close, int); REAL(int, fsync, int); REAL(int, fdatasync, int);
REAL(ssize_t, write, int, const void *, size_t); REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t); REAL(ssize_t, writev, int, const struct iovec *, int);
REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t); REAL(ssize_t, read, int, void *, size_t);
REAL(ssize_t, pread, int, void *, size_t, off_t); REAL(ssize_t, pread64, int, void *, size_t, off64_t);
REAL(int, fallocate, int, int, off_t, off_t); REAL(int, fallocate64, int, int, off64_t, off64_t);
REAL(int, sync_file_range, int, off64_t, off64_t, unsigned);

static void init(void) {
  static atomic_int done; if (done) return;
#define L(n) r_##n = dlsym(RTLD_NEXT, #n)
  L(open); L(open64); L(openat); L(openat64); L(creat); L(close); L(fsync); L(fdatasync); L(write); L(pwrite); L(pwrite64);
  L(writev); L(pwritev); L(read); L(pread); L(pread64); L(fallocate); L(fallocate64); L(sync_file_range);
  const char *p = getenv("FSFAULT_PREFIX"), *c = getenv("FSFAULT_CTL"), *g = getenv("FSFAULT_LOG");
  if (p) snprintf(prefix, sizeof prefix, "%s", p);
  if (c) snprintf(ctl, sizeof ctl, "%s", c);
  if (g) logfd = (int)syscall(SYS_openat, AT_FDCWD, g, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  done = 1;
}
__attribute__((constructor)) static void ctor(void) { init(); }
static long long ms(void) { struct timespec t; syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t); return t.tv_sec * 1000LL + t.tv_nsec / 1000000; }
static void nap(int n) { struct timespec t = {n / 1000, (n % 1000) * 1000000L}; while (n > 0 && syscall(SYS_nanosleep, &t, &t) < 0 && errno == EINTR); }
static void look(void) {
  long long n = ms(); if (!ctl[0] || n < next_look) return;
  if (pthread_mutex_trylock(&mu)) return;
  next_look = n + 10;
  static struct timespec mt; static off_t sz = -1; struct stat s;
  if (stat(ctl, &s) == 0 && (s.st_mtim.tv_sec != mt.tv_sec || s.st_mtim.tv_nsec != mt.tv_nsec || s.st_size != sz)) {
    char b[1024]; int fd = (int)syscall(SYS_openat, AT_FDCWD, ctl, O_RDONLY, 0); ssize_t k = fd < 0 ? -1 : (ssize_t)syscall(SYS_read, fd, b, sizeof b - 1);
    if (fd >= 0) syscall(SYS_close, fd);
    if (k >= 0) { b[k] = 0; mt = s.st_mtim; sz = s.st_size;
      sync_ms = sync_eio = write_ms = write_eio = enospc = short_ = torn = sync_lie = read_eio = 0; match_[0] = 0;
      char *sv, *w; for (w = strtok_r(b, " \t\n", &sv); w; w = strtok_r(0, " \t\n", &sv)) { char *e = strchr(w, '='); if (!e) continue; *e++ = 0;
#define O(n) if (!strcmp(w, #n)) n = atoi(e)
        O(sync_ms); O(sync_eio); O(write_ms); O(write_eio); O(enospc); O(torn); O(sync_lie); O(read_eio);
        if (!strcmp(w, "short")) short_ = atoi(e);
        if (!strcmp(w, "match")) snprintf(match_, sizeof match_, "%s", e); } }
  }
  pthread_mutex_unlock(&mu);
}
static int dice(int p) { if (p <= 0) return 0; if (!rs) rs = (unsigned)ms() * 2654435761u ^ (unsigned)(size_t)&rs; rs = rs * 1103515245u + 12345; return (int)((rs >> 16) % 100) < p; }
static void tell(const char *what, int fd) { // one line in the log, by system calls of our own
  if (logfd < 0) return;
  int e = errno; char l[64], t[1024], b[1200]; snprintf(l, sizeof l, "/proc/self/fd/%d", fd); ssize_t k = readlink(l, t, sizeof t - 1); t[k < 0 ? 0 : k] = 0;
  int n = snprintf(b, sizeof b, "%s %s\n", what, t); (void)!syscall(SYS_write, logfd, b, (size_t)n); errno = e;
}
static int hit(int fd) { // is fd under the prefix (and matching, when a match is set)
  if (fd < 0 || fd >= MAXFD || !mine[fd]) return 0;
  look(); if (!match_[0]) return 1;
  char l[64], t[1024]; snprintf(l, sizeof l, "/proc/self/fd/%d", fd); ssize_t k = readlink(l, t, sizeof t - 1); if (k < 0) return 0; t[k] = 0;
  return strstr(t, match_) != 0;
}
static int note(int fd) { // after open: learn whether it is ours
  if (fd < 0 || fd >= MAXFD || !prefix[0]) return fd;
  int e = errno; char l[64], t[1024]; snprintf(l, sizeof l, "/proc/self/fd/%d", fd); ssize_t k = readlink(l, t, sizeof t - 1);
  mine[fd] = 0; if (k > 0) { t[k] = 0; mine[fd] = !strncmp(t, prefix, strlen(prefix)); }
  errno = e; return fd;
}
static int nocreate(const char *p, int fl) { if (!(fl & O_CREAT) || !prefix[0] || strncmp(p, prefix, strlen(prefix))) return 0; look(); struct stat s; if (enospc && stat(p, &s)) { errno = ENOSPC; return 1; } return 0; }
#define MODE mode_t m = 0; if (fl & (O_CREAT | __O_TMPFILE)) { va_list a; va_start(a, fl); m = va_arg(a, mode_t); va_end(a); } init()
int open(const char *p, int fl, ...) { MODE; return nocreate(p, fl) ? -1 : note(r_open(p, fl, m)); }
int open64(const char *p, int fl, ...) { MODE; return nocreate(p, fl) ? -1 : note(r_open64(p, fl, m)); }
int openat(int d, const char *p, int fl, ...) { MODE; return nocreate(p, fl) ? -1 : note(r_openat(d, p, fl, m)); }
int openat64(int d, const char *p, int fl, ...) { MODE; return nocreate(p, fl) ? -1 : note(r_openat64(d, p, fl, m)); }
int creat(const char *p, mode_t m) { init(); return nocreate(p, O_CREAT) ? -1 : note(r_creat(p, m)); }
int close(int fd) { init(); if (fd >= 0 && fd < MAXFD) mine[fd] = 0; return r_close(fd); }
#define SYNC(call) init(); if (hit(fd)) { if (sync_ms) { tell("sync_ms", fd); nap(sync_ms); } if (dice(sync_eio)) { tell("sync_eio", fd); errno = EIO; return -1; } if (sync_lie) { tell("sync_lie", fd); return 0; } } return call
int fsync(int fd) { SYNC(r_fsync(fd)); }
int fdatasync(int fd) { SYNC(r_fdatasync(fd)); }
int sync_file_range(int fd, off64_t o, off64_t n, unsigned f) { SYNC(r_sync_file_range(fd, o, n, f)); }
static int grows(int fd, off64_t end) { struct stat s; return fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && end > s.st_size; }
#define W(end, full, half) \
  init(); if (hit(fd)) { if (write_ms) nap(write_ms); if (dice(write_eio)) { tell("write_eio", fd); errno = EIO; return -1; } \
    if (enospc && grows(fd, end)) { tell("enospc", fd); errno = ENOSPC; return -1; } \
    if (n > 1 && dice(torn)) { (void)!half; kill(getpid(), SIGKILL); } if (n > 1 && dice(short_)) return half; } return full
ssize_t write(int fd, const void *b, size_t n) { W(lseek(fd, 0, SEEK_CUR) + (off64_t)n, r_write(fd, b, n), r_write(fd, b, n / 2)); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { W(o + (off64_t)n, r_pwrite(fd, b, n, o), r_pwrite(fd, b, n / 2, o)); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { W(o + (off64_t)n, r_pwrite64(fd, b, n, o), r_pwrite64(fd, b, n / 2, o)); }
ssize_t writev(int fd, const struct iovec *v, int n) { W((off64_t)1 << 62, r_writev(fd, v, n), r_writev(fd, v, n / 2)); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t o) { W((off64_t)1 << 62, r_pwritev(fd, v, n, o), r_pwritev(fd, v, n / 2, o)); }
#define R(call) init(); if (hit(fd) && dice(read_eio)) { tell("read_eio", fd); errno = EIO; return -1; } return call
ssize_t read(int fd, void *b, size_t n) { R(r_read(fd, b, n)); }
ssize_t pread(int fd, void *b, size_t n, off_t o) { R(r_pread(fd, b, n, o)); }
ssize_t pread64(int fd, void *b, size_t n, off64_t o) { R(r_pread64(fd, b, n, o)); }
int fallocate(int fd, int m, off_t o, off_t n) { init(); if (hit(fd) && enospc) { errno = ENOSPC; return -1; } return r_fallocate(fd, m, o, n); }
int fallocate64(int fd, int m, off64_t o, off64_t n) { init(); if (hit(fd) && enospc) { errno = ENOSPC; return -1; } return r_fallocate64(fd, m, o, n); }
