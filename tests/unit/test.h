// The unit-test harness: TEST(name) { CHECK(condition); }. A failed CHECK prints both the text and the place and ends the test.
#pragma once

#include "src/base/format.h"
#include "src/base/types.h"

namespace vmm::test {

struct Case {
  const char* name;
  const char* file;
  void (*run)();
  Case* next;
  Case(const char* name, const char* file, void (*run)());
};
struct Failure {
  std::string text;
};
[[noreturn]] void failed(const char* condition, const char* file, int line, const std::string& detail = {});
// Ends the running test as skipped, with a reason that is printed.
[[noreturn]] void skip(const std::string& reason);
// How many of a test's many random cases this build tries: of `n`, a quarter in a build without optimisation and with sanitizers, which is
// there for what the sanitizers see and takes ten times as long for a case.
constexpr unsigned rounds(unsigned n) {
#if __has_feature(address_sanitizer)
  return (n + 3) / 4;
#else
  return n;
#endif
}

}  // namespace vmm::test

#define TEST(name)                                                     \
  static void test_##name();                                           \
  static ::vmm::test::Case case_##name{#name, __FILE__, &test_##name}; \
  static void test_##name()
#define CHECK(...)                                                             \
  do {                                                                         \
    if (!(__VA_ARGS__)) ::vmm::test::failed(#__VA_ARGS__, __FILE__, __LINE__); \
  } while (0)
// Equality with both values printed; they must be formattable.
#define CHECK_EQ(a, b)                                                                                                                 \
  do {                                                                                                                                 \
    auto check_a_ = (a);                                                                                                               \
    auto check_b_ = (b);                                                                                                               \
    if (!(check_a_ == check_b_)) ::vmm::test::failed(#a " == " #b, __FILE__, __LINE__, ::vmm::format("{} != {}", check_a_, check_b_)); \
  } while (0)
// The value of a Result, or the test fails with its error's message.
#define OK(...)                                                                                                     \
  ({                                                                                                                \
    auto ok_result_ = (__VA_ARGS__);                                                                                \
    if (!ok_result_.has_value()) ::vmm::test::failed(#__VA_ARGS__, __FILE__, __LINE__, ok_result_.error().message); \
    *std::move(ok_result_);                                                                                         \
  })
