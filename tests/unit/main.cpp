// Runs every TEST, or those whose name contains argv[1]. One line a failure; the last line counts.
#include <cstdio>
#include <cstring>
#include <set>

#include "tests/unit/test.h"

namespace vmm::test {
namespace {
Case* first = nullptr;
struct Skipped {
  std::string reason;
};
}  // namespace

Case::Case(const char* name, const char* file, void (*run)()) : name(name), file(file), run(run), next(first) { first = this; }
void failed(const char* condition, const char* file, int line, const std::string& detail) {
  throw Failure{format("{}:{}: {}{}{}", file, line, condition, detail.empty() ? "" : ": ", detail)};
}
void skip(const std::string& reason) { throw Skipped{reason}; }
}  // namespace vmm::test

int main(int argc, char** argv) {
  using namespace vmm::test;
  int passed = 0, failures = 0, skipped = 0;
  const bool verbose = argc > 2 && !std::strcmp(argv[2], "-v");
  for (Case* c = first; c; c = c->next) {
    if (argc > 1 && !std::strstr(c->name, argv[1]) && !std::strstr(c->file, argv[1])) continue;
    if (verbose) std::printf("%s\n", c->name), std::fflush(stdout);
    try {
      c->run();
      passed++;
    } catch (const Failure& f) {
      std::printf("FAIL %s\n  %s\n", c->name, f.text.c_str());
      failures++;
    } catch (const Skipped& s) {
      std::printf("SKIP %s: %s\n", c->name, s.reason.c_str());
      skipped++;
    }
    std::fflush(stdout);
  }
  std::printf("unit tests: %d passed, %d failed, %d skipped\n", passed, failures, skipped);
  return failures ? 1 : 0;
}
