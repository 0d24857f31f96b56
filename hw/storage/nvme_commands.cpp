// The commands of the nvme controller. Source: NVM Express Base Specification 1.4 §5 (admin), §6 (NVM), §4.3 (PRP lists).
#include <algorithm>

#include "hw/storage/nvme.h"

namespace vmm::hw {

using namespace nvme;

namespace {
void put_text(std::span<u8> bytes, std::string_view text) {
  for (usize i = 0; i < bytes.size(); i++) bytes[i] = static_cast<u8>(i < text.size() ? text[i] : ' ');
}
}  // namespace

// --- Data

bool Nvme::pieces(const Submission& c, u64 bytes, std::vector<Piece>& into) {
  const u64 page = page_bytes();
  u64 at = c.prp1();
  u64 now = std::min(bytes, page - (at & (page - 1)));
  if (at & 3) return false;
  into.push_back({at, static_cast<u32>(now)});
  bytes -= now;
  if (bytes == 0) return true;
  at = c.prp2();
  if (bytes <= page) {
    if (at & (page - 1)) return false;
    into.push_back({at, static_cast<u32>(bytes)});
    return true;
  }
  // A list of pages; its last entry leads on to the next list when more than fits is left.
  if (at & 7) return false;
  std::vector<u8> list;
  while (bytes) {
    const u64 room = (page - (at & (page - 1))) / 8, wanted = (bytes + page - 1) / page;
    const u64 count = std::min(room, wanted);
    list.resize(count * 8);
    if (!dma_read(GuestPhys{at}, list)) return false;
    for (u64 i = 0; i < count; i++) {
      const u64 entry = load_le<u64>(&list[8 * i]);
      if (i == count - 1 && wanted > count) {
        if (entry & 7 || count == 1) return false;
        at = entry;
        break;
      }
      if (entry & (page - 1)) return false;
      now = std::min(bytes, page);
      into.push_back({entry, static_cast<u32>(now)});
      bytes -= now;
    }
  }
  return true;
}

bool Nvme::to_guest(const Submission& c, std::span<const u8> bytes) {
  std::vector<Piece> list;
  if (!pieces(c, bytes.size(), list)) return false;
  usize done = 0;
  for (const Piece& p : list) {
    if (!dma_write(GuestPhys{p.at}, bytes.subspan(done, p.bytes))) return false;
    done += p.bytes;
  }
  return true;
}

bool Nvme::from_guest(const Submission& c, std::span<u8> bytes) {
  std::vector<Piece> list;
  if (!pieces(c, bytes.size(), list)) return false;
  usize done = 0;
  for (const Piece& p : list) {
    if (!dma_read(GuestPhys{p.at}, bytes.subspan(done, p.bytes))) return false;
    done += p.bytes;
  }
  return true;
}

// --- NVM commands

Task<> Nvme::io(const Submission& c, u16& status, u64 epoch) {
  if (c.space() != 1 && !(c.opcode() == 0x00 && c.space() == ~u32{0})) {
    status = invalid_namespace;
    co_return Result<>{};
  }
  const u64 first = c.word(10) | u64{c.word(11)} << 32, count = (c.word(12) & 0xffff) + 1;
  const bool fua = c.word(12) >> 30 & 1;
  const auto in_range = [&](u64 at, u64 n) { return at < blocks() && n <= blocks() - at; };
  switch (c.opcode()) {
    case 0x00: {
      const Result<> done = co_await attempt(requests_.flush());
      if (!done) status = internal_error;
      break;
    }
    case 0x01:
    case 0x02:
    case 0x05: {
      if (!in_range(first, count))
        status = lba_out_of_range;
      else if (count * block_bytes() > most_bytes())
        status = invalid_field;
      if (status) break;
      std::vector<u8> bytes(count * block_bytes());
      if (c.opcode() == 0x01) {
        if (!from_guest(c, bytes)) {
          status = data_transfer_error;
          break;
        }
        const Result<> done = co_await attempt(requests_.write(first * block_bytes(), bytes, fua));
        if (!done) status = write_fault;
        break;
      }
      const Result<> done = co_await attempt(requests_.read(first * block_bytes(), bytes));
      if (epoch != epoch_) break;  // after a reset the memory is the driver's again
      if (!done) {
        status = unrecovered_read;
      } else if (c.opcode() == 0x02) {
        if (!to_guest(c, bytes)) status = data_transfer_error;
      } else {
        std::vector<u8> theirs(bytes.size());
        status = !from_guest(c, theirs) ? data_transfer_error : theirs != bytes ? compare_failure : ok;
      }
      break;
    }
    case 0x08: {
      if (!in_range(first, count)) {
        status = lba_out_of_range;
        break;
      }
      const Result<> done = co_await attempt(
          requests_.zero(first * block_bytes(), count * block_bytes(), {.may_unmap = (c.word(12) >> 25 & 1) != 0, .fua = fua}));
      if (!done) status = write_fault;
      break;
    }
    case 0x09: {
      std::vector<u8> ranges(((c.word(10) & 0xff) + 1) * 16);
      if (!from_guest(c, ranges)) {
        status = data_transfer_error;
        break;
      }
      if (!(c.word(11) & 4)) break;  // only deallocation is more than a hint
      for (usize i = 0; i < ranges.size(); i += 16) {
        const u64 n = load_le<u32>(&ranges[i + 4]), at = load_le<u64>(&ranges[i + 8]);
        if (n == 0) continue;
        if (!in_range(at, n)) {
          status = lba_out_of_range;
          break;
        }
        const Result<> done = co_await attempt(requests_.discard(at * block_bytes(), n * block_bytes()));
        if (epoch != epoch_) break;
        if (!done) {
          status = internal_error;
          break;
        }
      }
      break;
    }
    default: status = invalid_opcode; break;
  }
  co_return Result<>{};
}

// --- Admin commands

Task<u32> Nvme::admin(const Submission& c, u16& status, u64 epoch) {
  u32 result = 0;
  switch (c.opcode()) {
    case 0x00: status = co_await delete_submission_queue(c.word(10) & 0xffff, epoch); break;
    case 0x01: status = create_queue(c, false); break;
    case 0x02: status = log_page(c); break;
    case 0x04: status = delete_completion_queue(c); break;
    case 0x05: status = create_queue(c, true); break;
    case 0x06: status = identify(c); break;
    case 0x08: result = 1; break;  // abort: it was not
    case 0x09: status = feature(c, true, result); break;
    case 0x0a: status = feature(c, false, result); break;
    default: status = invalid_opcode; break;
  }
  co_return result;
}

u16 Nvme::identify(const Submission& c) {
  std::array<u8, 4096> d{};
  switch (c.word(10) & 0xff) {
    case 0x00: {
      if (c.space() != 1 && c.space() != ~u32{0}) return invalid_namespace;
      store_le<u64>(&d[0], blocks());
      store_le<u64>(&d[8], blocks());
      store_le<u64>(&d[16], blocks());
      d[24] = 0x04;  // deallocated blocks may be reported
      d[33] = 1;     // and read as zeros
      d[128 + 2] = static_cast<u8>(std::countr_zero(block_bytes()));
      break;
    }
    case 0x01: {
      store_le<u16>(&d[0], ids_.vendor);
      store_le<u16>(&d[2], 0x1af4);
      put_text(std::span{d}.subspan(4, 20), disk_.serial);
      put_text(std::span{d}.subspan(24, 40), "QEMU NVMe Ctrl");
      put_text(std::span{d}.subspan(64, 8), "8.2.0");
      d[72] = 6;
      d[73] = 0x00, d[74] = 0x54, d[75] = 0x52;
      d[77] = static_cast<u8>(max_transfer_);
      store_le<u32>(&d[80], 0x0001'0400);
      store_le<u32>(&d[92], 1 << 8);
      d[258] = 3, d[259] = most_events - 1;
      d[260] = 3;       // one firmware slot, read only
      d[261] = 1 << 2;  // log pages with offsets
      d[262] = 3;
      store_le<u16>(&d[266], 343);
      store_le<u16>(&d[268], 373);
      d[512] = 0x66, d[513] = 0x44;
      store_le<u32>(&d[516], 1);
      store_le<u16>(&d[520], 1 | 1 << 2 | 1 << 3 | 1 << 6);  // compare, dataset management, write zeroes, timestamp
      d[525] = 1 | 3 << 1;                                   // a write cache; a flush for all namespaces is taken
      const std::string name = "nqn.2019-08.org.qemu:" + disk_.serial;
      std::ranges::copy(name, d.begin() + 768);
      store_le<u16>(&d[2048], 0x9c4);
      store_le<u32>(&d[2052], 16);
      store_le<u32>(&d[2056], 4);
      break;
    }
    case 0x02:
      if (c.space() >= 0xffff'fffe) return invalid_namespace;
      if (c.space() < 1) store_le<u32>(&d[0], 1);
      break;
    case 0x03:
      if (c.space() != 1) return invalid_namespace;
      d[0] = 3, d[1] = 16;  // a UUID, from the serial number
      for (usize i = 0; i < disk_.serial.size(); i++) d[4 + i % 16] = static_cast<u8>(d[4 + i % 16] * 31 + disk_.serial[i]);
      d[4 + 6] = static_cast<u8>((d[4 + 6] & 0x0f) | 0x40), d[4 + 8] = static_cast<u8>((d[4 + 8] & 0x3f) | 0x80);
      break;
    default: return invalid_field;
  }
  return to_guest(c, d) ? ok : data_transfer_error;
}

u16 Nvme::log_page(const Submission& c) {
  const u64 bytes = ((u64{c.word(10) >> 16} | u64{c.word(11) & 0xffff} << 16) + 1) * 4, offset = c.word(12) | u64{c.word(13)} << 32;
  std::vector<u8> page;
  switch (c.word(10) & 0xff) {
    case 0x01: page.resize(64 * 4); break;  // errors: none
    case 0x02: {
      page.resize(512);
      store_le<u16>(&page[1], 323);  // kelvin
      page[3] = 100, page[4] = 10;
      const auto& reads = disk_.drive->statistics(block::Operation::read);
      const auto& writes = disk_.drive->statistics(block::Operation::write);
      store_le<u64>(&page[32], (reads.bytes / 512 + 999) / 1000);
      store_le<u64>(&page[48], (writes.bytes / 512 + 999) / 1000);
      store_le<u64>(&page[64], reads.operations);
      store_le<u64>(&page[80], writes.operations);
      break;
    }
    case 0x03:
      page.resize(512);
      page[0] = 1;
      put_text(std::span{page}.subspan(8, 8), "8.2.0");
      break;
    case 0x04:
      page.resize(4096);
      store_le<u32>(&page[0], 1);
      break;
    default: return invalid_log;
  }
  if (offset >= page.size() || offset & 3) return invalid_field;
  const usize size = std::min<u64>(bytes, page.size() - offset);
  return to_guest(c, std::span{page}.subspan(offset, size)) ? ok : data_transfer_error;
}

u16 Nvme::feature(const Submission& c, bool set, u32& result) {
  const u8 which = c.word(10) & 0xff, select = c.word(10) >> 8 & 7;
  const u32 value = c.word(11);
  if (set && c.word(10) >> 31) return feature_not_saveable;
  switch (which) {
    case 0x01:
    case 0x02:
    case 0x05:
    case 0x0a: return ok;
    case 0x04:
      if (set)
        temperature_ = value & 0xffff;
      else
        result = (value >> 16 & 0xf) == 0 ? temperature_ : 0;
      return ok;
    case 0x06:
      if (set) {
        disk_.drive->set_write_cache(value & 1);
      } else {
        result = select == 1 ? 1 : disk_.drive->write_cache();
      }
      return ok;
    case 0x07:
      if (set && ((value & 0xffff) == 0xffff || value >> 16 == 0xffff)) return invalid_field;
      result = (queue_pairs_ - 1) | (queue_pairs_ - 1) << 16;
      return ok;
    case 0x08: return ok;
    case 0x09:
      if ((value & 0xffff) >= vectors_) return invalid_field;
      result = value & 0xffff;
      return ok;
    case 0x0b:
      if (set)
        event_config_ = value;
      else
        result = event_config_;
      return ok;
    case 0x0e: {
      std::array<u8, 8> time{};
      if (set) return from_guest(c, time) ? ok : data_transfer_error;
      const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
      store_le<u64>(time.data(), static_cast<u64>(now) & 0xffff'ffff'ffff);
      return to_guest(c, time) ? ok : data_transfer_error;
    }
    default: return invalid_field;
  }
}

}  // namespace vmm::hw
