#include "src/base/os_error.h"

#include <cstring>

namespace vmm {

namespace {
constexpr int first_os_kind = 0x1000;  // past the classes of QMP, which takes what it does not know for generic
}

void set_os_error(Error& error, int os_error) { error.kind = static_cast<ErrorClass>(first_os_kind + os_error); }
int os_error_of(const Error& error) {
  const int kind = static_cast<int>(error.kind);
  return kind > first_os_kind ? kind - first_os_kind : 0;
}
std::unexpected<Error> fail_os(int os_error, std::string text) {
  Error error{text.empty() ? std::string{std::strerror(os_error)} : format("{}: {}", text, std::strerror(os_error))};
  set_os_error(error, os_error);
  return std::unexpected(std::move(error));
}

}  // namespace vmm
