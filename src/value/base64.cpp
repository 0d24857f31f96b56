#include "src/value/base64.h"

namespace vmm {

std::string to_base64(std::span<const u8> bytes) {
  static constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (usize i = 0; i < bytes.size(); i += 3) {
    u32 word = u32(bytes[i]) << 16;
    if (i + 1 < bytes.size()) word |= u32(bytes[i + 1]) << 8;
    if (i + 2 < bytes.size()) word |= bytes[i + 2];
    for (unsigned k = 0; k < 4; k++) out += i + k > bytes.size() ? '=' : digits[word >> (18 - 6 * k) & 63];
  }
  return out;
}

Result<std::vector<u8>> from_base64(std::string_view text) {
  std::vector<u8> out;
  u32 word = 0;
  unsigned bits = 0, padding = 0;
  for (const char c : text) {
    u32 v;
    if (c == '\n' || c == '\r' || c == ' ' || c == '\t') continue;
    if (c == '=') {
      padding++;
      continue;
    }
    if (c >= 'A' && c <= 'Z')
      v = static_cast<u32>(c - 'A');
    else if (c >= 'a' && c <= 'z')
      v = static_cast<u32>(c - 'a') + 26;
    else if (c >= '0' && c <= '9')
      v = static_cast<u32>(c - '0') + 52;
    else if (c == '+' || c == '/')
      v = c == '+' ? 62 : 63;
    else
      return fail("Base64 data is not valid: it holds '{}'", c);
    if (padding) return fail("Base64 data is not valid: it goes on after '='");
    word = word << 6 | v;
    if ((bits += 6) >= 8) out.push_back(static_cast<u8>(word >> (bits -= 8)));
  }
  if (padding > 2 || bits >= 6) return fail("Base64 data is not valid: it ends within a group of digits");
  return out;
}

}  // namespace vmm
