// Assertions for our own mistakes. They stay in release builds; nothing a guest, file, peer or user sends may reach one.
#pragma once

namespace vmm {
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line) noexcept;
}  // namespace vmm

#define ASSERT(condition) \
  (__builtin_expect(static_cast<bool>(condition), 1) ? void(0) : ::vmm::assertion_failed(#condition, __FILE__, __LINE__))
#define UNREACHABLE() ::vmm::assertion_failed("unreachable", __FILE__, __LINE__)
