#include "block/format/vhdx_log.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>

#include "src/base/bits.h"

namespace vmm::block::vhdx {

u32 crc32c(std::span<const u8> bytes, usize skip_at) {
  static constexpr auto table = [] {
    std::array<u32, 256> t{};
    for (u32 i = 0; i < 256; i++) {
      u32 crc = i;
      for (int k = 0; k < 8; k++) crc = crc & 1 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
      t[i] = crc;
    }
    return t;
  }();
  u32 crc = ~u32{0};
  for (usize i = 0; i < bytes.size(); i++) {
    const u8 byte = i >= skip_at && i < skip_at + 4 ? u8{0} : bytes[i];
    crc = crc >> 8 ^ table[(crc ^ byte) & 0xff];
  }
  return ~crc;
}

namespace {
constexpr u64 most_zeros = u64{4} << 30, sector = 4096, header_bytes = 64, descriptor_bytes = 32;

bool is(const u8* at, std::string_view name) { return std::equal(name.begin(), name.end(), at); }

struct Entry {
  u64 bytes = 0, tail = 0, sequence = 0, flushed = 0, last = 0;
  u32 descriptors = 0;
};
// In one piece: the log is a ring.
std::vector<u8> bytes_of(std::span<const u8> log, u64 at, u64 bytes) {
  const u64 first = std::min(bytes, log.size() - at);
  std::vector<u8> all(log.begin() + i64(at), log.begin() + i64(at + first));
  all.insert(all.end(), log.begin(), log.begin() + i64(bytes - first));
  return all;
}

// An entry whose every part agrees with every other, or nothing. `work` is what sums may still be made of: entries that overlap could
// otherwise ask for the square of the log's size.
std::optional<Entry> entry_at(std::span<const u8> log, u64 at, const Guid& id, u64& work) {
  const u8* h = &log[at];
  if (!is(h, "loge") || !std::equal(id.begin(), id.end(), h + 32)) return {};
  Entry e{.bytes = load_le<u32>(h + 8),
          .tail = load_le<u32>(h + 12),
          .sequence = load_le<u64>(h + 16),
          .flushed = load_le<u64>(h + 48),
          .last = load_le<u64>(h + 56),
          .descriptors = load_le<u32>(h + 24)};
  if (!e.bytes || e.bytes % sector || e.bytes > log.size() || e.tail % sector || e.tail >= log.size() || !e.sequence) return {};
  const u64 tables = align_up(header_bytes + u64{e.descriptors} * descriptor_bytes, sector);
  if (tables > e.bytes) return {};
  if (e.bytes > work) return {};
  work -= e.bytes;
  const std::vector<u8> all = bytes_of(log, at, e.bytes);
  if (load_le<u32>(&all[4]) != crc32c(all, 4)) return {};
  u64 data = tables;
  for (u32 i = 0; i < e.descriptors; i++) {
    const u8* d = &all[header_bytes + u64{i} * descriptor_bytes];
    if (load_le<u64>(d + 24) != e.sequence || load_le<u64>(d + 16) % sector) return {};
    if (is(d, "zero")) {
      if (load_le<u64>(d + 8) % sector) return {};
      continue;
    }
    if (!is(d, "desc") || data + sector > e.bytes) return {};
    const u8* s = &all[data];
    if (!is(s, "data") || load_le<u32>(s + 4) != u32(e.sequence >> 32) || load_le<u32>(s + 4092) != u32(e.sequence)) return {};
    data += sector;
  }
  return e;
}

void carry_out(const Entry& e, const std::vector<u8>& all, Replay& to) {
  u64 data = align_up(header_bytes + u64{e.descriptors} * descriptor_bytes, sector);
  for (u32 i = 0; i < e.descriptors; i++) {
    const u8* d = &all[header_bytes + u64{i} * descriptor_bytes];
    LogWrite w{.at = load_le<u64>(d + 16)};
    if (is(d, "zero")) {
      w.zeros = load_le<u64>(d + 8);
    } else {
      // The first eight and the last four bytes stand in the descriptor: the sector had to be marked.
      w.bytes.resize(sector);
      std::copy_n(d + 8, 8, w.bytes.begin());
      std::copy_n(&all[data + 8], 4084, w.bytes.begin() + 8);
      std::copy_n(d + 4, 4, w.bytes.begin() + 4092);
      data += sector;
    }
    to.writes.push_back(std::move(w));
  }
}
}  // namespace

// §2.3.3: the active sequence is that run of entries, numbered without a gap, whose last has the highest number of all, and whose last says
// that it begins inside the run.
Result<Replay> read_log(std::span<const u8> log, const Guid& id, u64 file_bytes) {
  if (log.empty() || log.size() % sector) return fail("the VHDX log has {} bytes", log.size());
  std::map<u64, Entry> entries;
  u64 work = log.size() * 64;
  for (u64 at = 0; at < log.size(); at += sector)
    if (auto e = entry_at(log, at, id, work)) entries.emplace(at, *e);
  std::vector<u64> best;
  u64 best_sequence = 0;
  for (const auto& [start, first] : entries) {
    std::vector<u64> run{start};
    u64 length = first.bytes;
    for (const Entry* e = &first;;) {
      const auto next = entries.find((run.back() + e->bytes) % log.size());
      if (next == entries.end() || next->second.sequence != e->sequence + 1 || length + next->second.bytes > log.size()) break;
      run.push_back(next->first), e = &next->second, length += e->bytes;
    }
    const Entry& head = entries.at(run.back());
    const auto begin = std::ranges::find(run, head.tail);
    if (begin == run.end() || head.sequence <= best_sequence) continue;
    best.assign(begin, run.end()), best_sequence = head.sequence;
  }
  if (best.empty()) return fail("the VHDX log holds no sound entries");
  const Entry& head = entries.at(best.back());
  if (head.flushed > file_bytes)
    return fail("the VHDX image is cut off: its log counts on {} bytes, the file has {}", head.flushed, file_bytes);
  Replay replay;
  for (const u64 at : best) carry_out(entries.at(at), bytes_of(log, at, entries.at(at).bytes), replay);
  replay.file_bytes = head.last;
  u64 zeros = 0;
  for (const LogWrite& w : replay.writes) zeros = std::min(zeros + std::min(w.zeros, most_zeros), most_zeros);
  if (zeros == most_zeros) return fail("the VHDX log zeroes more than {} bytes of metadata", most_zeros);
  for (const LogWrite& w : replay.writes)
    if (w.at > head.last || std::max<u64>(w.zeros, w.bytes.size()) > head.last - w.at)
      return fail("the VHDX log writes at {:#x}, past the end that it names ({:#x})", w.at, head.last);
  return replay;
}

}  // namespace vmm::block::vhdx
