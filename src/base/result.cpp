#include "src/base/result.h"

#include <cerrno>
#include <cstring>

namespace vmm {
std::unexpected<Error> fail_errno(std::string text) { return fail("{}: {}", text, std::strerror(errno)); }
}  // namespace vmm
