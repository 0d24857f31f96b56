// Guest code from any bytes, in any mode, from any registers, by the interpreter and by E1: the same outcome.
#include "tests/unit/accel/tcg/guest/x86/differential.h"

extern "C" int LLVMFuzzerTestOneInput(const vmm::u8* data, size_t size) {
  using namespace vmm::tcg::differential;
  if (size < 8 || size > 256) return 0;
  static Pair& pair = *new Pair;
  const Case c{.mode = static_cast<Mode>(data[0] % static_cast<unsigned>(Mode::count)),
               .seed = data[1] | vmm::u64{data[2]} << 8 | 1,
               .offset = static_cast<vmm::u16>(data[3] & 1 ? 4096 - (data[3] >> 1) % 32 : data[3] >> 1),
               .code = {data + 4, size - 4}};
  const std::string text = pair.run(c);
  if (!text.empty()) fmt::print(stderr, "{}\n", text), std::abort();
  return 0;
}
