// The device types that stand on the tests' bench, chosen by the first line of an input.
#pragma once

#include <algorithm>
#include <numeric>
#include <string_view>
#include <vector>

#include "tests/unit/hw/bench.h"

namespace vmm::fuzz {

// By name: the conformance walk's choice.
inline const std::vector<const TypeInfo*>& bench_types() {
  static const auto* list = [] {
    auto* all = new std::vector<const TypeInfo*>;
    for (const TypeInfo* type : all_types())
      if (test::stands_on_bench(*type)) all->push_back(type);
    std::ranges::sort(*all, {}, &TypeInfo::name);
    return all;
  }();
  return *list;
}
// The one of that name, or for any other bytes some one.
inline const TypeInfo& choose_type(std::string_view name) {
  const auto& all = bench_types();
  if (const auto at = std::ranges::find(all, name, &TypeInfo::name); at != all.end()) return **at;
  return *all[std::accumulate(name.begin(), name.end(), usize{0}, [](usize a, char c) { return a * 31 + static_cast<u8>(c); }) %
              all.size()];
}

}  // namespace vmm::fuzz
