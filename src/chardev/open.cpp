#include "src/chardev/open.h"

#include <fcntl.h>

namespace vmm {

Result<Fd> open_for_chardev(const std::string& path, int flags) {
  Fd fd{::open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY, 0666)};
  if (!fd) return fail_errno(format("Could not open '{}'", path));
  return fd;
}

}  // namespace vmm
