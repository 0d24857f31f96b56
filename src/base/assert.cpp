#include "src/base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace vmm {
void assertion_failed(const char* condition, const char* file, int line) noexcept {
  std::fprintf(stderr, "vmm: internal error: %s (%s:%d)\n", condition, file, line);
  std::abort();
}
}  // namespace vmm
