// One program holds every fuzz target; it is the one that its name says: fuzz_NAME.
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "fuzz_table.h"

static decltype(fuzz_targets[0].run) chosen = nullptr;

extern "C" int LLVMFuzzerInitialize(int*, char*** words) {
  std::string_view name = (*words)[0];
  name.remove_prefix(name.rfind('/') + 1);
  for (const auto& target : fuzz_targets)
    if (name.starts_with("fuzz_") && name.substr(5) == target.name) chosen = target.run;
  if (!chosen) {
    std::fputs("the target is chosen by the name of the program: fuzz_NAME\n", stderr);
    std::exit(2);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, unsigned long size) { return chosen(data, size); }
