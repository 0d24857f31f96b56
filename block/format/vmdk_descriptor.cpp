#include "block/format/vmdk_descriptor.h"

#include <algorithm>
#include <charconv>

namespace vmm::block::vmdk {

bool is_descriptor(std::span<const u8> head) {
  constexpr std::string_view first_line = "# Disk DescriptorFile";
  return head.size() >= first_line.size() && std::equal(first_line.begin(), first_line.end(), head.begin());
}

std::string value_of(std::string_view text, std::string_view key) {
  for (usize at = text.find(key); at != text.npos; at = text.find(key, at + 1)) {
    if (at && text[at - 1] != '\n') continue;
    const usize begin = at + key.size();
    std::string value{text.substr(begin, text.find_first_of("\r\n", begin) - begin)};
    std::erase(value, '"');
    return value;
  }
  return {};
}

namespace {
std::string_view word_of(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
  const std::string_view word = line.substr(0, line.find_first_of(" \t"));
  line.remove_prefix(word.size());
  return word;
}
Result<u64> number_of(std::string_view word, std::string_view line) {
  u64 n = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), n);
  if (error != std::errc{} || end != word.data() + word.size() || n > u64{1} << 45)
    return fail("Invalid extent line: {}", line.substr(0, 200));
  return n;
}

// RW 4192256 FLAT "disk-flat.vmdk" 0
Result<ExtentLine> parse_extent(std::string_view line) {
  const std::string_view whole = line;
  ExtentLine e;
  const std::string_view access = word_of(line);
  if (access == "NOACCESS") return fail("an extent without access is not supported: {}", whole.substr(0, 200));
  e.writable = access == "RW";
  e.sectors = TRY(number_of(word_of(line), whole));
  const std::string_view kind = word_of(line);
  if (!e.sectors) return fail("Invalid extent line: {}", whole.substr(0, 200));
  if (kind == "ZERO") {
    e.kind = ExtentLine::Kind::zero;
    return e;
  }
  if (kind == "SPARSE")
    e.kind = ExtentLine::Kind::sparse;
  else if (kind != "FLAT" && kind != "VMFS")
    return fail("Unsupported extent type '{}'", kind.substr(0, 50));
  const auto begin = line.find('"'), end = begin == line.npos ? begin : line.find('"', begin + 1);
  if (end == line.npos || end == begin + 1) return fail("Invalid extent line: {}", whole.substr(0, 200));
  e.file = line.substr(begin + 1, end - begin - 1);
  line.remove_prefix(end + 1);
  if (const std::string_view offset = word_of(line); !offset.empty()) e.offset = TRY(number_of(offset, whole));
  // The image's word, not the user's: nothing above its own folder.
  if (e.file.starts_with('/') || e.file == ".." || e.file.starts_with("../") || e.file.ends_with("/..") || e.file.contains("/../"))
    return fail("extent '{}' of the VMDK image lies outside of its folder", e.file.substr(0, 200));
  return e;
}
}  // namespace

Result<Descriptor> parse_descriptor(std::string_view text) {
  if (const auto zero = text.find('\0'); zero != text.npos) text = text.substr(0, zero);
  Descriptor d{.type = value_of(text, "createType=")};
  const std::string parent = value_of(text, "parentCID=");
  if (!parent.empty() && parent != "ffffffff") return fail("a VMDK image with a parent is not supported");
  constexpr std::string_view known[] = {"monolithicFlat", "twoGbMaxExtentFlat", "twoGbMaxExtentSparse", "vmfs", "monolithicSparse"};
  if (std::ranges::find(known, d.type) == std::end(known)) return fail("Unsupported image type '{}'", d.type.substr(0, 50));
  while (!text.empty()) {
    const auto end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == text.npos ? text.size() : end + 1);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) line.remove_suffix(1);
    if (!line.starts_with("RW ") && !line.starts_with("RDONLY ") && !line.starts_with("NOACCESS ")) continue;
    if (d.extents.size() >= most_extents) return fail("the VMDK descriptor names more than {} extents", most_extents);
    d.extents.push_back(TRY(parse_extent(line)));
  }
  if (d.extents.empty()) return fail("the VMDK descriptor names no extents");
  return d;
}

}  // namespace vmm::block::vmdk
