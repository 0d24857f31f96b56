#include "hw/firmware/smbios.h"

#include <algorithm>

#include "src/base/bits.h"
#include "src/io/read_file.h"
#include "src/value/field.h"

namespace vmm::hw {
namespace {

// The keys of one `-smbios type=N` option, merged over all options of that type.
class Given {
 public:
  explicit Given(const std::vector<Value>& options) : options_(options) {}
  std::string text(unsigned type, std::string_view key, std::string fallback) const {
    for (const Value& o : options_) {
      const Value* t = o.find("type");
      const Value* v = o.find(key);
      if (t && v && t->is_string() && v->is_string() && t->get_string() == std::to_string(type)) fallback = v->get_string();
    }
    return fallback;
  }
  bool has(unsigned type) const {
    return std::ranges::any_of(options_, [&](const Value& o) {
      const Value* t = o.find("type");
      return t && t->is_string() && t->get_string() == std::to_string(type);
    });
  }
  const std::vector<Value>& all() const { return options_; }

 private:
  const std::vector<Value>& options_;
};

// One structure: formatted area, then its strings.
class Structure {
 public:
  Structure(u8 type, u16 handle) {
    bytes_ = {type, 0};
    word(handle);
  }
  Structure& byte(unsigned v) { return bytes_.push_back(static_cast<u8>(v)), *this; }
  Structure& word(unsigned v) { return byte(v & 0xff).byte(v >> 8 & 0xff); }
  Structure& dword(u64 v) { return word(v & 0xffff).word(v >> 16 & 0xffff); }
  Structure& qword(u64 v) { return dword(v & 0xffff'ffff).dword(v >> 32); }
  Structure& string(const std::string& s) {
    if (s.empty()) return byte(0);
    strings_.push_back(s);
    return byte(static_cast<unsigned>(strings_.size()));
  }
  void add_string(const std::string& s) { strings_.push_back(s); }
  void finish(std::vector<u8>& out, u16& largest) {
    bytes_[1] = static_cast<u8>(bytes_.size());
    for (const auto& s : strings_) {
      for (char c : s)
        if (c) bytes_.push_back(static_cast<u8>(c));
      bytes_.push_back(0);
    }
    if (strings_.empty()) bytes_.push_back(0);
    bytes_.push_back(0);
    largest = std::max<u16>(largest, static_cast<u16>(std::min<usize>(bytes_.size(), 0xffff)));
    out.insert(out.end(), bytes_.begin(), bytes_.end());
  }

 private:
  std::vector<u8> bytes_;
  std::vector<std::string> strings_;
};

Result<std::vector<std::string>> oem_strings(const Given& given) {
  std::vector<std::string> list;
  for (const Value& o : given.all()) {
    const Value* t = o.find("type");
    if (!t || !t->is_string() || t->get_string() != "11") continue;
    for (const auto& [key, value] : o.members()) {
      if (!value.is_string()) continue;
      if (key == "value") list.push_back(value.get_string());
      if (key != "path") continue;
      const std::vector<u8> bytes = TRY(read_file(value.get_string(), 64 * KiB, format("-smbios type=11: '{}'", value.get_string())));
      std::string text{bytes.begin(), bytes.end()};
      while (text.ends_with('\n')) text.pop_back();
      list.push_back(text);
    }
  }
  if (list.size() > 255) return fail("-smbios type=11: at most 255 strings fit");
  return list;
}

}  // namespace

Result<SmbiosTables> build_smbios(const SmbiosInput& in) {
  const Given given{in.options};
  SmbiosTables out;
  u16 count = 0, largest = 0;
  const auto emit = [&](Structure& s) { s.finish(out.tables, largest), count++; };

  for (const Value& o : in.options) {
    if (const Value* t = o.find("type"); t && t->is_string()) {
      static constexpr std::string_view known[] = {"0", "1", "2", "3", "4", "8", "11", "17", "41"};
      if (std::ranges::find(known, t->get_string()) == std::end(known))
        return fail("-smbios type={}: unknown type; 0, 1, 2, 3, 4, 8, 11, 17 and 41 can be given", t->get_string());
    }
    const Value* file = o.find("file");
    if (!file || !file->is_string()) continue;
    const std::vector<u8> raw = TRY(read_file(file->get_string(), 64 * KiB, format("-smbios file={}", file->get_string())));
    if (raw.size() < 6 || raw[1] < 4 || raw[1] > raw.size()) return fail("-smbios file={}: not one SMBIOS structure", file->get_string());
    out.tables.insert(out.tables.end(), raw.begin(), raw.end());
    if (raw[raw.size() - 1] || raw[raw.size() - 2]) out.tables.insert(out.tables.end(), {0, 0});
    count++;
    largest = std::max<u16>(largest, static_cast<u16>(raw.size()));
  }

  if (given.has(0)) {
    const std::string release = given.text(0, "release", "0.0");
    const auto dot = release.find('.');
    Structure s{0, 0};
    s.string(given.text(0, "vendor", "")).string(given.text(0, "version", "")).word(0xe800).string(given.text(0, "date", "")).byte(0);
    s.qword(0x08).byte(0).byte(given.text(0, "uefi", "off") == "on" ? 0x0c : 0x04);  // characteristics unknown; virtual machine
    s.byte(static_cast<unsigned>(std::atoi(release.c_str())))
        .byte(static_cast<unsigned>(dot == release.npos ? 0 : std::atoi(release.c_str() + dot + 1)));
    s.word(0xffff);
    emit(s);
  }
  {
    Structure s{1, 0x100};
    s.string(given.text(1, "manufacturer", "QEMU"))
        .string(given.text(1, "product", in.product))
        .string(given.text(1, "version", in.version));
    s.string(given.text(1, "serial", ""));
    // The first three UUID fields are little endian.
    static constexpr u8 order[] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
    for (u8 i : order) s.byte(in.uuid_given ? in.uuid[i] : 0);
    s.byte(6).string(given.text(1, "sku", "")).string(given.text(1, "family", ""));
    emit(s);
  }
  if (given.has(2)) {
    Structure s{2, 0x200};
    s.string(given.text(2, "manufacturer", "QEMU"))
        .string(given.text(2, "product", in.product))
        .string(given.text(2, "version", in.version));
    s.string(given.text(2, "serial", ""))
        .string(given.text(2, "asset", ""))
        .byte(1)
        .string(given.text(2, "location", ""))
        .word(0x300)
        .byte(10)
        .byte(0);
    emit(s);
  }
  {
    Structure s{3, 0x300};
    s.string(given.text(3, "manufacturer", "QEMU"))
        .byte(1)
        .string(given.text(3, "version", in.version))
        .string(given.text(3, "serial", ""));
    s.string(given.text(3, "asset", ""))
        .byte(3)
        .byte(3)
        .byte(3)
        .byte(2)
        .dword(0)
        .byte(0)
        .byte(0)
        .byte(0)
        .byte(0)
        .string(given.text(3, "sku", ""));
    emit(s);
  }
  for (unsigned i = 0; i < std::min(in.sockets, 256u); i++) {
    Structure s{4, static_cast<u16>(0x400 + i)};
    s.string(given.text(4, "sock_pfx", "CPU") + format(" {}", i)).byte(3).byte(1).string(given.text(4, "manufacturer", "QEMU"));
    s.dword(in.cpu_signature).dword(in.cpu_features_edx).string(given.text(4, "version", in.cpu_version)).byte(0).word(0);
    const auto mhz = [&](std::string_view key) {
      return static_cast<unsigned>(std::strtoul(given.text(4, key, "2000").c_str(), nullptr, 0)) & 0xffff;
    };
    s.word(mhz("max-speed")).word(mhz("current-speed")).byte(0x41).byte(1).word(0xffff).word(0xffff).word(0xffff);
    s.string(given.text(4, "serial", "")).string(given.text(4, "asset", "")).string(given.text(4, "part", ""));
    const unsigned cores = std::min(in.cores, 255u), threads = std::min(in.cores * in.threads, 255u);
    s.byte(cores).byte(cores).byte(threads).word(2).word(1).word(in.cores).word(in.cores).word(in.cores * in.threads);
    emit(s);
  }
  const std::vector<std::string> oem = TRY(oem_strings(given));
  if (!oem.empty()) {
    Structure s{11, 0xe00};
    s.byte(static_cast<unsigned>(oem.size()));
    for (const auto& text : oem) s.add_string(text);
    emit(s);
  }
  constexpr u64 dimm = 16 * GiB;
  const auto dimms = static_cast<unsigned>(std::clamp<u64>((in.ram_bytes + dimm - 1) / dimm, 1, 255));
  {
    Structure s{16, 0x1000};
    const u64 kib = in.ram_bytes / KiB;
    s.byte(1)
        .byte(3)
        .byte(6)
        .dword(kib < 0x8000'0000 ? kib : 0x8000'0000)
        .word(0xfffe)
        .word(dimms)
        .qword(kib < 0x8000'0000 ? 0 : in.ram_bytes);
    emit(s);
  }
  for (unsigned i = 0; i < dimms; i++) {
    Structure s{17, static_cast<u16>(0x1100 + i)};
    const u64 mib = std::min(dimm, in.ram_bytes - u64{i} * dimm) / MiB;
    s.word(0x1000).word(0xfffe).word(0xffff).word(0xffff).word(mib < 0x7fff ? static_cast<unsigned>(mib) : 0x7fff).byte(9).byte(0);
    s.string(given.text(17, "loc_pfx", "DIMM") + format(" {}", i)).string(given.text(17, "bank", "")).byte(7).word(2).word(0);
    s.string(given.text(17, "manufacturer", "QEMU")).string(given.text(17, "serial", "")).string(given.text(17, "asset", ""));
    s.string(given.text(17, "part", "")).byte(0).dword(mib < 0x7fff ? 0 : mib).word(0).word(0).word(0).word(0);
    emit(s);
  }
  const auto mapped = [&](u16 handle, u64 first, u64 length) {
    Structure s{19, handle};
    const u64 last = first + length - 1;
    const bool wide = last / KiB >= 0xffff'ffff;
    s.dword(wide ? 0xffff'ffff : first / KiB)
        .dword(wide ? 0xffff'ffff : last / KiB)
        .word(0x1000)
        .byte(1)
        .qword(wide ? first : 0)
        .qword(wide ? last : 0);
    emit(s);
  };
  mapped(0x1300, 0, std::min(in.ram_bytes, in.ram_below_4g));
  if (in.ram_bytes > in.ram_below_4g) mapped(0x1301, 4 * GiB, in.ram_bytes - in.ram_below_4g);
  {
    Structure s{32, 0x2000};
    for (int i = 0; i < 6; i++) s.byte(0);
    s.byte(0);
    emit(s);
  }
  {
    Structure s{127, 0x7f00};
    emit(s);
  }
  if (out.tables.size() > 0xffff) return fail("-smbios: the tables are {} bytes long, at most 65535 fit", out.tables.size());

  // Entry point 2.8. The firmware fills in the address and both checksums.
  std::vector<u8>& a = out.anchor;
  a.assign(31, 0);
  std::memcpy(&a[0], "_SM_", 4);
  a[5] = 31, a[6] = 2, a[7] = 8;
  store_le<u16>(&a[8], largest);
  std::memcpy(&a[16], "_DMI_", 5);
  store_le<u16>(&a[22], static_cast<u16>(out.tables.size()));
  store_le<u16>(&a[28], count);
  a[30] = 0x28;
  const auto sum = [&](usize from, usize length) {
    u8 s = 0;
    for (usize i = 0; i < length; i++) s = static_cast<u8>(s + a[from + i]);
    return static_cast<u8>(-s);
  };
  a[21] = sum(16, 15);
  a[4] = sum(0, 31);
  return out;
}

}  // namespace vmm::hw
