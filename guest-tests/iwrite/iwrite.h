/* Reads and writes that tell Sky the class of their data.
 *
 * SPDX-License-Identifier: Apache-2.0
 *
 * Each function is the plain call with two more registers: R8 holds IWRITE_MAGIC and R9 the class. The kernel looks at
 * neither, so without Sky they do nothing. (preadv and pwritev have the upper half of their offset in R8, which Linux
 * shifts away on 64-bit x86: the lower half holds all of it.)
 *
 * As the plain calls, they return -1 and set errno when they fail. They are not cancellation points. C99, or C++, with
 * the compilers gcc and clang, on x86-64 Linux.
 */
#ifndef SKY_IWRITE_H
#define SKY_IWRITE_H

#if !defined(__x86_64__) || defined(__ILP32__) || !defined(__linux__)
#error "iwrite.h is for 64-bit x86 Linux"
#endif

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "SKYHINT1" */
#define IWRITE_MAGIC UINT64_C(0x534b5948494e5431)

/* A call with a hint: its result, or -1 with errno set. The numbers below are the kernel's, from syscall_64.tbl. */
static inline long iwrite_call_(long number, long a, long b, long c, long d, uint32_t ioclass)
{
    long result;
    register long r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = IWRITE_MAGIC;
    register uint64_t r9 __asm__("r9") = ioclass;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    if (result < 0 && result >= -4095) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

/* read(2) */
static inline ssize_t iread(int fd, void *buf, size_t count, uint32_t ioclass)
{
    return iwrite_call_(0, fd, (long)buf, (long)count, 0, ioclass);
}

/* write(2) */
static inline ssize_t iwrite(int fd, const void *buf, size_t count, uint32_t ioclass)
{
    return iwrite_call_(1, fd, (long)buf, (long)count, 0, ioclass);
}

/* pread(2); the offset has 64 bits whatever the size of off_t */
static inline ssize_t ipread(int fd, void *buf, size_t count, int64_t offset, uint32_t ioclass)
{
    return iwrite_call_(17, fd, (long)buf, (long)count, (long)offset, ioclass);
}

/* pwrite(2) */
static inline ssize_t ipwrite(int fd, const void *buf, size_t count, int64_t offset, uint32_t ioclass)
{
    return iwrite_call_(18, fd, (long)buf, (long)count, (long)offset, ioclass);
}

/* readv(2) */
static inline ssize_t ireadv(int fd, const struct iovec *iov, int iovcnt, uint32_t ioclass)
{
    return iwrite_call_(19, fd, (long)iov, iovcnt, 0, ioclass);
}

/* writev(2) */
static inline ssize_t iwritev(int fd, const struct iovec *iov, int iovcnt, uint32_t ioclass)
{
    return iwrite_call_(20, fd, (long)iov, iovcnt, 0, ioclass);
}

/* preadv(2) */
static inline ssize_t ipreadv(int fd, const struct iovec *iov, int iovcnt, int64_t offset, uint32_t ioclass)
{
    return iwrite_call_(295, fd, (long)iov, iovcnt, (long)offset, ioclass);
}

/* pwritev(2) */
static inline ssize_t ipwritev(int fd, const struct iovec *iov, int iovcnt, int64_t offset, uint32_t ioclass)
{
    return iwrite_call_(296, fd, (long)iov, iovcnt, (long)offset, ioclass);
}

/* fsync(2) */
static inline int ifsync(int fd, uint32_t ioclass)
{
    return (int)iwrite_call_(74, fd, 0, 0, 0, ioclass);
}

#ifdef __cplusplus
}
#endif

#endif
