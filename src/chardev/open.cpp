#include "src/chardev/open.h"

#include "src/io/fd_set.h"

namespace vmm {

Result<Fd> open_for_chardev(const std::string& path, int flags) { return io::open_file(path, flags); }

}  // namespace vmm
