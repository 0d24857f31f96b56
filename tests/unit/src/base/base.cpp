#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/base/wire.h"
#include "tests/unit/test.h"

namespace vmm {
TEST(span_reader_never_reads_past_its_end) {
  const u8 bytes[] = {1, 2, 3};
  SpanReader reader{bytes};
  CHECK_EQ(OK(reader.le<u16>("first")).raw(), 0x201);
  const auto second = reader.le<u16>("second");
  CHECK(!second);
  CHECK_EQ(second.error().message, "second is cut off at 0x2");
}
TEST(wire_refuses_sums_that_overflow) {
  CHECK(!Wire<u32>{0xffff'fff0}.add(0x20, "end"));
  CHECK_EQ(OK(Wire<u32>{0x10}.add(0x20, "end")), 0x30u);
}
TEST(log_items_are_named_and_unknown_ones_refused) {
  CHECK(log_set_items("int,cpu").has_value());
  CHECK(log_enabled(LogItem::interrupts));
  CHECK(!log_set_items("int,nonsense"));
  OK(log_set_items(""));
}
static Result<int> outer(Result<int> inner) { return TRY(std::move(inner)) + 1; }
TEST(try_hands_errors_up) {
  CHECK_EQ(OK(outer(1)), 2);
  CHECK_EQ(outer(fail("no {}", 7)).error().message, "no 7");
}
TEST(sign_extension) {
  CHECK_EQ(sign_extend(0x80, 8), ~u64{0x7f});
  CHECK_EQ(bits(0xabcd, 11, 4), 0xbcu);
}
}  // namespace vmm
