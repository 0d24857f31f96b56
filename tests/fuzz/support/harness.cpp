// What the unit tests' benches need of their harness, for fuzz targets that stand a device on one.
#include <cstdio>
#include <cstdlib>

#include "tests/unit/test.h"

namespace vmm::test {

void failed(const char* condition, const char* file, int line, const std::string& detail) {
  std::fprintf(stderr, "%s:%d: %s: %s\n", file, line, condition, detail.c_str());
  std::abort();
}
void skip(const std::string& reason) { failed("skip", __FILE__, __LINE__, reason); }

}  // namespace vmm::test
