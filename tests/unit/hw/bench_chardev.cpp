// The chardev of the bench.
#include "tests/unit/hw/bench_chardev.h"

namespace vmm::test {

constinit const TypeInfo BenchChardev::type{
    .name = "chardev-bench", .parent = &Chardev::type, .make = make<BenchChardev>, .user_creatable = false};

}  // namespace vmm::test
