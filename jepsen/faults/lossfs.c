// lossfs.c - FUSE pass-through directory that FORGETS un-synced writes at "power loss" (any program: Go, static, mmap).
// build: gcc -O2 -o lossfs lossfs.c $(pkg-config --cflags --libs fuse3) -pthread        (apt: fuse3 libfuse3-dev)
// use:   mkdir -p STORE MNT; lossfs STORE MNT   (daemon; fusermount3 -u MNT or umount -l MNT ends it)
// The store always holds the newest bytes; every change that is not yet durable has an undo record in memory, dropped by
// fsync/fdatasync of that file. Control: write one word to MNT/.fault (it is not listed), read it for the counters
// (undone: changes lost so far; eios, lies, slowed: syncs that met these faults). With -f it stays in the foreground and ends with its parent.
//   powerloss          undo every un-synced change (kill -9 the program FIRST)
//   powerloss=SEED     each file keeps a random prefix of its un-synced writes, the last one torn at a 512-byte boundary
//   sync_ms=N  sync_eio=P  write_eio=P  enospc=0|1  sync_lie=0|1   as in fsfault.c; heal: all off
//   strict=1           names too: create/rename/unlink/mkdir are undone unless their DIRECTORY was fsynced
//   strict=0 (default) like ext4: any fsync also makes all earlier create/rename/unlink durable
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { WRITE, TRUNC, CREATE, MKDIR, RENAME, UNLINK, RMDIR };
typedef struct rec { int k; ino_t ino; int fd; off_t off, oldsize; size_t n; char *old; char *p, *q; int trash; mode_t mode; struct rec *next, *prev; size_t seq; } rec;
static rec head = {.next = &head, .prev = &head};
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static char store[4000]; static size_t nrec, bytes, ntrash, seqno; static unsigned long syncs, losses, undone; static atomic_ulong eios, lies, slowed;
static atomic_int sync_ms, sync_eio, write_eio, enospc, sync_lie, strict;
static const char *CTL = "/.fault";

typedef struct ifd { ino_t i; int fd; size_t ref; struct ifd *next; } ifd; static ifd *tab[4096]; // one descriptor per file with undo records
static int getfd(ino_t i, int like) { ifd *x; for (x = tab[i & 4095]; x; x = x->next) if (x->i == i) { x->ref++; return x->fd; }
  char l[64]; snprintf(l, sizeof l, "/proc/self/fd/%d", like); int fd = open(l, O_RDWR | O_CLOEXEC); if (fd < 0) return -1;
  x = malloc(sizeof *x); *x = (ifd){i, fd, 1, tab[i & 4095]}; tab[i & 4095] = x; return fd; }
static void putfd(ino_t i) { for (ifd **q = &tab[i & 4095], *x; (x = *q); q = &x->next) if (x->i == i) { if (--x->ref == 0) { close(x->fd); *q = x->next; free(x); } return; } }
static char *P(char *b, const char *p) { snprintf(b, 8192, "%s%s", store, p); return b; }
#define B(p) char b_[8192]; P(b_, p)
static int dice(int p) { return p > 0 && rand() % 100 < p; }
static void nap(int n) { struct timespec t = {n / 1000, (n % 1000) * 1000000L}; if (n > 0) nanosleep(&t, 0); }
static void trashname(char *b, int t) { snprintf(b, 8192, "%s/.lossfs-trash/%d", store, t); }
static void push(rec r) { rec *x = malloc(sizeof *x); *x = r; x->seq = ++seqno; x->prev = head.prev; x->next = &head; head.prev->next = x; head.prev = x; nrec++; bytes += r.n; }
static void drop(rec *x) { x->prev->next = x->next; x->next->prev = x->prev; nrec--; bytes -= x->n;
  if ((x->k == UNLINK || x->k == RENAME) && x->trash >= 0) { char t[8192]; trashname(t, x->trash); unlink(t); }
  if (x->fd >= 0) putfd(x->ino);
  free(x->old); free(x->p); free(x->q); free(x); }
static int samedir(const char *p, const char *d) { const char *s = strrchr(p, '/'); size_t n = s - p; if (n == 0) return !strcmp(d, "/"); return strlen(d) == n && !strncmp(p, d, n); }
static void commit_names(const char *dir) { for (rec *x = head.next, *nx; x != &head; x = nx) { nx = x->next; if (x->k >= CREATE && (!dir || samedir(x->p, dir) || (x->q && samedir(x->q, dir)))) drop(x); } }
static void commit_data(ino_t ino) { for (rec *x = head.next, *nx; x != &head; x = nx) { nx = x->next; if (x->k <= TRUNC && x->ino == ino) drop(x); } }
static void save(int fd, int k, off_t off, size_t n) { // record what [off,off+n) and the size were
  struct stat s; if (fstat(fd, &s)) return;
  rec r = {.k = k, .ino = s.st_ino, .off = off, .oldsize = s.st_size, .trash = -1}; r.fd = getfd(s.st_ino, fd); if (r.fd < 0) return;
  if (off < s.st_size && n) { size_t m = s.st_size - off < (off_t)n ? (size_t)(s.st_size - off) : n; r.old = malloc(m); ssize_t g = pread(r.fd, r.old, m, off); r.n = g < 0 ? 0 : g; }
  push(r);
}
static void undo(rec *x, off_t keep) { // keep: bytes of this write that did reach the disk
  char a[8192], b[8192], t[8192];
  switch (x->k) {
  case WRITE: case TRUNC:
    if (x->fd < 0) break;
    if (x->n > (size_t)keep) (void)!pwrite(x->fd, x->old + keep, x->n - keep, x->off + keep);
    { struct stat s; off_t want = x->oldsize; if (keep && x->off + keep > want) want = x->off + keep; if (!fstat(x->fd, &s) && s.st_size != want) (void)!ftruncate(x->fd, want); }
    break;
  case CREATE: unlink(P(a, x->p)); break;
  case MKDIR: rmdir(P(a, x->p)); break;
  case RENAME: rename(P(b, x->q), P(a, x->p)); if (x->trash >= 0) { trashname(t, x->trash); rename(t, P(b, x->q)); } break;
  case UNLINK: trashname(t, x->trash); rename(t, P(a, x->p)); x->trash = -1; break;
  case RMDIR: mkdir(P(a, x->p), x->mode); break;
  }
}
static size_t powerloss(unsigned seed) {
  size_t n = 0; unsigned s = seed;
  // per file: the sequence number from which its writes are lost
  struct { ino_t i; size_t cut; } c[4096]; int nc = 0;
  if (seed) { for (rec *x = head.next; x != &head; x = x->next) if (x->k <= TRUNC) { int j; for (j = 0; j < nc && c[j].i != x->ino; j++); if (j < nc || nc == 4096) continue;
      size_t cnt = 0; for (rec *y = x; y != &head; y = y->next) if (y->k <= TRUNC && y->ino == x->ino) cnt++;
      size_t skip = rand_r(&s) % (cnt + 1), cut = (size_t)-1, k = 0; for (rec *y = x; y != &head; y = y->next) if (y->k <= TRUNC && y->ino == x->ino && k++ == skip) { cut = y->seq; break; }
      c[nc].i = x->ino; c[nc++].cut = cut; } }
  for (rec *x = head.prev, *pv; x != &head; x = pv) { pv = x->prev; off_t keep = 0;
    if (seed && x->k <= TRUNC) { size_t cut = 0; for (int j = 0; j < nc; j++) if (c[j].i == x->ino) cut = c[j].cut;
      if (x->seq < cut) continue;
      if (x->seq == cut && x->k == WRITE) { struct stat st; off_t w = fstat(x->fd, &st) ? 0 : st.st_size - x->off; if (w > 512) keep = (rand_r(&s) % (w / 512)) * 512; } }
    undo(x, keep); n++; }
  while (head.next != &head) drop(head.next);
  losses++; undone += n; return n;
}
// ---- operations
static int x_getattr(const char *p, struct stat *s, struct fuse_file_info *fi) { (void)fi;
  if (!strcmp(p, CTL)) { memset(s, 0, sizeof *s); s->st_mode = S_IFREG | 0600; s->st_nlink = 1; s->st_size = 1024; return 0; }
  B(p); return lstat(b_, s) ? -errno : 0; }
static int x_readdir(const char *p, void *buf, fuse_fill_dir_t f, off_t o, struct fuse_file_info *fi, enum fuse_readdir_flags fl) { (void)o; (void)fi; (void)fl;
  B(p); DIR *d = opendir(b_); if (!d) return -errno; struct dirent *e; while ((e = readdir(d))) if (strcmp(e->d_name, ".lossfs-trash")) f(buf, e->d_name, 0, 0, 0); closedir(d); return 0; }
static int full(void) { return enospc ? -ENOSPC : 0; }
static int x_open(const char *p, struct fuse_file_info *fi) { if (!strcmp(p, CTL)) { fi->fh = (uint64_t)-1; fi->direct_io = 1; return 0; }
  B(p); int fl = fi->flags & ~(O_APPEND | O_DIRECT | O_EXCL | O_CREAT | O_TRUNC); if ((fl & O_ACCMODE) == O_WRONLY) fl = (fl & ~O_ACCMODE) | O_RDWR;
  int fd = open(b_, fl); if (fd < 0) return -errno;
  if (fi->flags & O_TRUNC) { pthread_mutex_lock(&mu); struct stat s; if (!fstat(fd, &s) && s.st_size) { int w = open(b_, O_RDWR); save(w, TRUNC, 0, s.st_size); (void)!ftruncate(w, 0); close(w); } pthread_mutex_unlock(&mu); }
  fi->fh = fd; return 0; }
static int x_create(const char *p, mode_t m, struct fuse_file_info *fi) { int e = full(); if (e) return e; B(p); int ex = access(b_, F_OK) == 0; pthread_mutex_lock(&mu);
  int fd = open(b_, O_CREAT | O_RDWR | (fi->flags & O_EXCL), m); e = fd < 0 ? -errno : 0;
  if (fd >= 0 && !ex) push((rec){.k = CREATE, .fd = -1, .trash = -1, .p = strdup(p)});
  pthread_mutex_unlock(&mu); if (e) return e; fi->fh = fd; return 0; }
static int x_release(const char *p, struct fuse_file_info *fi) { (void)p; if (fi->fh != (uint64_t)-1) close(fi->fh); return 0; }
static int x_read(const char *p, char *b, size_t n, off_t o, struct fuse_file_info *fi) { (void)p;
  if (fi->fh == (uint64_t)-1) { char t[1024]; pthread_mutex_lock(&mu); int k = snprintf(t, sizeof t, "unsynced_records=%zu undo_bytes=%zu syncs=%lu losses=%lu undone=%lu eios=%lu lies=%lu slowed=%lu sync_ms=%d sync_eio=%d write_eio=%d enospc=%d sync_lie=%d strict=%d\n", nrec, bytes, syncs, losses, undone, (unsigned long)eios, (unsigned long)lies, (unsigned long)slowed, sync_ms, sync_eio, write_eio, enospc, sync_lie, strict);
    pthread_mutex_unlock(&mu); if (o >= k) return 0; k -= o; memcpy(b, t + o, k); return k; }
  ssize_t r = pread(fi->fh, b, n, o); return r < 0 ? -errno : (int)r; }
static int control(const char *b, size_t n) { char t[128]; snprintf(t, sizeof t, "%.*s", (int)(n < 100 ? n : 100), b); t[strcspn(t, "\n")] = 0; char *e = strchr(t, '='); int v = e ? atoi(e + 1) : 1; if (e) *e = 0;
  if (!strcmp(t, "powerloss")) { pthread_mutex_lock(&mu); powerloss(e ? (unsigned)v : 0); pthread_mutex_unlock(&mu); }
  else if (!strcmp(t, "heal")) sync_ms = sync_eio = write_eio = enospc = sync_lie = 0;
#define O(x) else if (!strcmp(t, #x)) x = v
  O(sync_ms); O(sync_eio); O(write_eio); O(enospc); O(sync_lie); O(strict); else return -EINVAL;
  return (int)n; }
static int x_write(const char *p, const char *b, size_t n, off_t o, struct fuse_file_info *fi) { (void)p;
  if (fi->fh == (uint64_t)-1) return control(b, n);
  if (dice(write_eio)) return -EIO;
  struct stat s; if (enospc && !fstat(fi->fh, &s) && o + (off_t)n > s.st_size) return -ENOSPC;
  pthread_mutex_lock(&mu); save(fi->fh, WRITE, o, n); ssize_t r = pwrite(fi->fh, b, n, o); int e = errno; pthread_mutex_unlock(&mu); return r < 0 ? -e : (int)r; }
static int x_truncate(const char *p, off_t n, struct fuse_file_info *fi) { if (!strcmp(p, CTL)) return 0; (void)fi; B(p); int fd = open(b_, O_RDWR); if (fd < 0) return -errno;
  pthread_mutex_lock(&mu); struct stat s; fstat(fd, &s); save(fd, TRUNC, n, s.st_size > n ? s.st_size - n : 0); int r = ftruncate(fd, n), e = errno; pthread_mutex_unlock(&mu); close(fd); return r ? -e : 0; }
static int x_fallocate(const char *p, int m, off_t o, off_t n, struct fuse_file_info *fi) { (void)p; if (enospc) return -ENOSPC; if (m & ~FALLOC_FL_KEEP_SIZE) return -EOPNOTSUPP;
  pthread_mutex_lock(&mu); if (!(m & FALLOC_FL_KEEP_SIZE)) save(fi->fh, TRUNC, o, 0); int r = fallocate(fi->fh, m, o, n), e = errno; pthread_mutex_unlock(&mu); return r ? -e : 0; }
// what a sync meets before it syncs; 1: it ends with *r
static int fault(int *r) { if (sync_ms) { slowed++; nap(sync_ms); } if (dice(sync_eio)) { eios++; *r = -EIO; return 1; } if (sync_lie) { lies++; *r = 0; return 1; } return 0; }
static int x_fsync(const char *p, int d, struct fuse_file_info *fi) { (void)p; (void)d; int r; if (fault(&r)) return r;
  pthread_mutex_lock(&mu); struct stat s; syncs++; if (!fstat(fi->fh, &s)) commit_data(s.st_ino); if (!strict) commit_names(0); pthread_mutex_unlock(&mu); return 0; }
static int x_fsyncdir(const char *p, int d, struct fuse_file_info *fi) { (void)d; (void)fi; int r; if (fault(&r)) return r; pthread_mutex_lock(&mu); syncs++; commit_names(strict ? p : 0); pthread_mutex_unlock(&mu); return 0; }
static int totrash(const char *abs) { char t[8192]; int n = (int)++ntrash; trashname(t, n); return rename(abs, t) ? -1 : n; }
static int x_unlink(const char *p) { B(p); pthread_mutex_lock(&mu); int t = totrash(b_), e = errno; if (t >= 0) push((rec){.k = UNLINK, .fd = -1, .trash = t, .p = strdup(p)}); pthread_mutex_unlock(&mu); return t < 0 ? -e : 0; }
static int x_rename(const char *p, const char *q, unsigned fl) { if (fl) return -EINVAL; char a[8192], b[8192], t[8192]; P(a, p); P(b, q); pthread_mutex_lock(&mu); int tr = -1, r = 0, e = 0; struct stat s;
  if (!lstat(b, &s) && S_ISREG(s.st_mode)) { tr = (int)++ntrash; trashname(t, tr); (void)!link(b, t); }
  if (rename(a, b)) { r = -1; e = errno; if (tr >= 0) unlink(t); } else push((rec){.k = RENAME, .fd = -1, .trash = tr, .p = strdup(p), .q = strdup(q)});
  pthread_mutex_unlock(&mu); return r ? -e : 0; }
static int x_mkdir(const char *p, mode_t m) { int e = full(); if (e) return e; B(p); pthread_mutex_lock(&mu); int r = mkdir(b_, m); e = errno; if (!r) push((rec){.k = MKDIR, .fd = -1, .trash = -1, .p = strdup(p)}); pthread_mutex_unlock(&mu); return r ? -e : 0; }
static int x_rmdir(const char *p) { B(p); struct stat s; pthread_mutex_lock(&mu); lstat(b_, &s); int r = rmdir(b_), e = errno; if (!r) push((rec){.k = RMDIR, .fd = -1, .trash = -1, .p = strdup(p), .mode = s.st_mode}); pthread_mutex_unlock(&mu); return r ? -e : 0; }
static int x_link(const char *p, const char *q) { char a[8192], b[8192]; pthread_mutex_lock(&mu); int r = link(P(a, p), P(b, q)), e = errno; if (!r) push((rec){.k = CREATE, .fd = -1, .trash = -1, .p = strdup(q)}); pthread_mutex_unlock(&mu); return r ? -e : 0; }
static int x_symlink(const char *t, const char *q) { B(q); return symlink(t, b_) ? -errno : 0; }
static int x_readlink(const char *p, char *b, size_t n) { B(p); ssize_t k = readlink(b_, b, n - 1); if (k < 0) return -errno; b[k] = 0; return 0; }
static int x_chmod(const char *p, mode_t m, struct fuse_file_info *fi) { (void)fi; B(p); return chmod(b_, m) ? -errno : 0; }
static int x_chown(const char *p, uid_t u, gid_t g, struct fuse_file_info *fi) { (void)fi; B(p); return lchown(b_, u, g) ? -errno : 0; }
static int x_utimens(const char *p, const struct timespec t[2], struct fuse_file_info *fi) { (void)fi; if (!strcmp(p, CTL)) return 0; B(p); return utimensat(AT_FDCWD, b_, t, AT_SYMLINK_NOFOLLOW) ? -errno : 0; }
static int x_statfs(const char *p, struct statvfs *s) { B(p); int r = statvfs(b_, s); if (enospc) s->f_bavail = s->f_bfree = 0; return r ? -errno : 0; }
static void *x_init(struct fuse_conn_info *c, struct fuse_config *g) { (void)c; g->attr_timeout = g->entry_timeout = g->negative_timeout = 0; g->hard_remove = 1; g->use_ino = 1; return 0; }
static const struct fuse_operations ops = {.init = x_init, .getattr = x_getattr, .readdir = x_readdir, .open = x_open, .create = x_create, .release = x_release, .read = x_read, .write = x_write, .truncate = x_truncate, .fallocate = x_fallocate, .fsync = x_fsync, .fsyncdir = x_fsyncdir, .unlink = x_unlink, .rename = x_rename, .mkdir = x_mkdir, .rmdir = x_rmdir, .link = x_link, .symlink = x_symlink, .readlink = x_readlink, .chmod = x_chmod, .chown = x_chown, .utimens = x_utimens, .statfs = x_statfs};
int main(int n, char **v) { if (n < 3) { fprintf(stderr, "lossfs STORE MNT [-f]\n"); return 2; } if (!realpath(v[1], store)) { perror(v[1]); return 1; }
  char t[8192]; snprintf(t, sizeof t, "%s/.lossfs-trash", store); mkdir(t, 0700); umask(0);
  if (n > 3) { prctl(PR_SET_PDEATHSIG, SIGTERM); if (getppid() == 1) return 1; } // in the foreground it ends, and unmounts, with who started it
  char *a[] = {v[0], v[2], "-o", "allow_other,default_permissions", n > 3 ? v[3] : "-s", 0}; if (n <= 3) { a[4] = 0; return fuse_main(4, a, &ops, 0); } return fuse_main(5, a, &ops, 0); }
