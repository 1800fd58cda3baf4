/* Every function of iwrite.h once, with classes 1, 2, ..., on the file that the argument names. */
#include "iwrite.h"

#include <fcntl.h>
#include <string.h>

int main(int argc, char **argv)
{
    char one[3], two[3];
    struct iovec out = { (void *)"ghi", 3 }, in = { two, 3 };
    int fd = argc == 2 ? open(argv[1], O_RDWR | O_CREAT, 0600) : -1;

    if (fd < 0)
        return 10;
    if (iwrite(fd, "abc", 3, 1) != 3)
        return 1;
    if (ipwrite(fd, "def", 3, 3, 2) != 3)
        return 2;
    if (iwritev(fd, &out, 1, 3) != 3)
        return 3;
    out.iov_base = (void *)"jkl";
    if (ipwritev(fd, &out, 1, 6, 4) != 3)
        return 4;
    if (ifsync(fd, 5) != 0)
        return 5;
    if (iread(fd, one, 3, 6) != 3)
        return 6;
    if (ipread(fd, one, 3, 0, 7) != 3 || memcmp(one, "abc", 3) != 0)
        return 7;
    if (ipreadv(fd, &in, 1, 6, 8) != 3 || memcmp(two, "jkl", 3) != 0)
        return 8;
    if (ireadv(fd, &in, 1, UINT32_MAX) != 0)
        return 9;
    errno = 0;
    if (iwrite(-1, "x", 1, 1) != -1 || errno != EBADF)
        return 11;
    return 0;
}
