#include "src/value/cbor.h"

#include "tests/unit/test.h"

using namespace vmm;

TEST(cbor_values_come_back_as_they_were) {
  Value v = Value::object()
                .set("none", Value{})
                .set("yes", true)
                .set("small", 23)
                .set("bytes", Value{Value::Bytes{1, 2, 255}})
                .set("largest", ~u64{0})
                .set("least", INT64_MIN)
                .set("half", 0.5)
                .set("text", "grüße")
                .set("list", Value::list().append(-1).append(24).append(256).append(65536).append(u64{1} << 32).append(Value::object()));
  const auto back = OK(parse_cbor(to_cbor(v)));
  CHECK(back == v);
}

// RFC 8949, appendix A.
TEST(cbor_is_written_as_the_standard_says) {
  const auto hex = [](const Value& v) {
    std::string out;
    for (u8 b : to_cbor(v)) out += format("{:02x}", b);
    return out;
  };
  CHECK_EQ(hex(Value{1000000}), "1a000f4240");
  CHECK_EQ(hex(Value{~u64{0}}), "1bffffffffffffffff");
  CHECK_EQ(hex(Value{-1000}), "3903e7");
  CHECK_EQ(hex(Value{1.1}), "fb3ff199999999999a");
  CHECK_EQ(hex(Value{"IETF"}), "6449455446");
  CHECK_EQ(hex(Value{Value::Bytes{1, 2, 3, 4}}), "4401020304");
  CHECK_EQ(hex(Value::object().set("a", 1).set("b", Value::list().append(2).append(3))), "a26161016162820203");
}

TEST(cbor_that_lies_is_refused) {
  const auto refused = [](std::vector<u8> bytes) { return !parse_cbor(bytes).has_value(); };
  CHECK(refused({}));
  CHECK(refused({0x01, 0x01}));                                            // two items
  CHECK(refused({0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}));  // a list of 2^64 elements
  CHECK(refused({0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}));  // a string longer than the input
  CHECK(refused({0x9f, 0xff}));                                            // no length
  CHECK(refused({0xa1, 0x01, 0x01}));                                      // a name that is a number
  CHECK(refused({0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}));  // below INT64_MIN
  CHECK(refused({0xc0, 0x01}));                                            // a tag
  CHECK(refused(std::vector<u8>(1000, 0x81)));                             // too deep, and cut
  std::vector<u8> whole = to_cbor(Value::object().set("name", Value::list().append(1).append("two").append(3.0)));
  for (usize n = 0; n < whole.size(); n++) CHECK(refused({whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n)}));
}
