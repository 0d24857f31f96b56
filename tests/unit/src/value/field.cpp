#include "src/value/field.h"

#include "tests/unit/test.h"

namespace vmm {

enum class Policy { report, pause };
template <>
inline constexpr std::array enum_names<Policy> = {EnumNameOf<Policy>{Policy::report, "report"}, EnumNameOf<Policy>{Policy::pause, "pause"}};
struct Inner {
  u8 small = 0;
};
template <>
inline constexpr std::array fields<Inner> = {field<&Inner::small>("small", "A small number.")};
struct Args {
  u64 hz = 0;
  std::optional<i32> shift;
  bool on = false;
  Policy policy{};
  Bytes64 size;
  std::vector<Inner> list;
  Inner inner;
};
template <>
inline constexpr std::array fields<Args> = {
    field<&Args::hz>("tick-hz", "Rate.", {.min = 1, .max = 1'000'000'000}),
    field<&Args::shift>("shift", "Shift."),
    field<&Args::on>("on", "Switch.", {.optional = true}),
    field<&Args::policy>("policy", "What to do.", {.optional = true}),
    field<&Args::size>("size", "Bytes.", {.optional = true}),
    field<&Args::list>("list", "Some.", {.optional = true}),
    field<&Args::inner>("inner", "One.", {.optional = true}),
};

static std::string error_of(const char* json) {
  Args a;
  const auto r = assign_fields(&a, fields<Args>, OK(parse_json(json)));
  return r ? "" : r.error().message;
}

TEST(fields_are_assigned_and_shown) {
  Args a;
  OK(assign_fields(&a, fields<Args>,
                   OK(parse_json(R"({"tick-hz": "0x10", "on": "yes", "policy": "pause", "size": "1.5G", "list": [{"small": 3}]})"))));
  CHECK_EQ(a.hz, 16u);
  CHECK(a.on && a.policy == Policy::pause && !a.shift);
  CHECK_EQ(a.size.value, 3 * GiB / 2);
  CHECK_EQ(to_json(show_fields(&a, fields<Args>)),
           R"({"tick-hz": 16, "on": true, "policy": "pause", "size": 1610612736, "list": [{"small": 3}], "inner": {"small": 0}})");
}

TEST(wrong_arguments_get_the_contract_texts) {
  CHECK_EQ(error_of("{}"), "Parameter 'tick-hz' is missing");
  CHECK_EQ(error_of(R"({"tick-hz": 1, "x": 1})"), "Parameter 'x' is unexpected");
  CHECK_EQ(error_of(R"({"tick-hz": 0})"), "'tick-hz' takes 1 to 1000000000, not 0");
  CHECK_EQ(error_of(R"({"tick-hz": -3})"), "'tick-hz' takes 1 to 1000000000, not -3");
  CHECK_EQ(error_of(R"({"tick-hz": "99999999999999999999999"})"), "'tick-hz' takes 1 to 1000000000, not 99999999999999999999999");
  CHECK_EQ(error_of(R"({"tick-hz": "fast"})"), "'tick-hz' takes a number, not 'fast'");
  CHECK_EQ(error_of(R"({"tick-hz": []})"), "Invalid parameter type for 'tick-hz', expected: integer");
  CHECK_EQ(error_of(R"({"tick-hz": 1.5})"), "Invalid parameter type for 'tick-hz', expected: integer");
  CHECK_EQ(error_of(R"({"tick-hz": 1, "shift": 2147483648})"), "'shift' takes -2147483648 to 2147483647, not 2147483648");
  CHECK_EQ(error_of(R"({"tick-hz": 1, "on": "maybe"})"), "'on' takes 'on' or 'off', not 'maybe'");
  CHECK_EQ(error_of(R"({"tick-hz": 1, "policy": "zz"})"), "Parameter 'policy' does not accept value 'zz'");
  CHECK_EQ(error_of(R"({"tick-hz": 1, "size": "1.5"})"), "'size' takes a size such as 512M, 1.5G or 0x100000, not '1.5'");
  CHECK_EQ(error_of(R"({"tick-hz": 1, "inner": {"smal": 1}})"), "Parameter 'inner.smal' is unexpected");
  CHECK_EQ(error_of(R"({"tick-hz": 1, "inner": {"small": 256}})"), "'inner.small' takes 0 to 255, not 256");
  CHECK_EQ(error_of(R"([])"), "Invalid parameter type for 'arguments', expected: object");
}

TEST(sizes_as_users_type_them) {
  const auto size = [](const char* text) {
    const auto r = codec_detail::parse_size(Value{text}, "size", {});
    return r ? format("{}", *r) : "error";
  };
  CHECK_EQ(size("128"), "128");
  CHECK_EQ(size("4k"), "4096");
  CHECK_EQ(size("1.5G"), "1610612736");
  CHECK_EQ(size("0.1K"), "102");
  CHECK_EQ(size("0x1000"), "4096");
  CHECK_EQ(size("0x10M"), "16777216");
  CHECK_EQ(size("0x1e"), "30");
  CHECK_EQ(size("15E"), "17293822569102704640");
  for (const char* bad : {"", "M", "1.5", "-1", "+1", "1MM", "0x", "1.M.", ".M", "16E", "1e3", "99999999999999999999999", "1 M", "1.5x"})
    if (size(bad) != "error") test::failed(bad, __FILE__, __LINE__, size(bad));
}

}  // namespace vmm
