// Failure without exceptions. A function that may fail returns Result<T>; TRY hands an error up.
#pragma once

#include <expected>
#include <string>
#include <utility>

#include "src/base/format.h"

namespace vmm {

// Error classes as QMP names them; everything that no client needs to tell apart is `generic`.
enum class ErrorClass { generic, command_not_found, device_not_found, device_not_active, kvm_missing_cap, migration_expected, cancelled };

// What went wrong, for the person who can mend it. `message` names the thing and the remedy and has no trailing newline or
// full stop; `hint` (optional) is printed on lines of its own.
struct Error {
  std::string message;
  ErrorClass kind = ErrorClass::generic;
  std::string hint;

  Error& with_hint(std::string text) & { return hint = std::move(text), *this; }
  Error&& with_hint(std::string text) && { return hint = std::move(text), std::move(*this); }
  // Adds context on the way up: "-device foo: " + message.
  Error&& within(std::string_view place) && { return message = format("{}: {}", place, message), std::move(*this); }
};

template <class... Args>
std::unexpected<Error> fail(fmt::format_string<Args...> text, Args&&... args) {
  return std::unexpected(Error{fmt::format(text, std::forward<Args>(args)...)});
}
template <class... Args>
std::unexpected<Error> fail(ErrorClass kind, fmt::format_string<Args...> text, Args&&... args) {
  return std::unexpected(Error{fmt::format(text, std::forward<Args>(args)...), kind});
}
// The last host call's error: "text: strerror(errno)".
std::unexpected<Error> fail_errno(std::string text);

template <class T = void>
class [[nodiscard]] Result : public std::expected<T, Error> {
 public:
  using Base = std::expected<T, Error>;
  using Base::Base;
  Result(Base&& other) : Base(std::move(other)) {}
  Result& operator=(const Result&) = default;
  Result& operator=(Result&&) = default;
  Result(const Result&) = default;
  Result(Result&&) = default;
};

}  // namespace vmm

// The value of `x`, or return its error from the enclosing plain function. Tasks use co_await instead.
#define TRY(...)                                              \
  ({                                                          \
    auto try_result_ = (__VA_ARGS__);                         \
    if (!try_result_.has_value()) [[unlikely]]                \
      return std::unexpected(std::move(try_result_).error()); \
    *std::move(try_result_);                                  \
  })
