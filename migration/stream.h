// The stream of a machine's state: a head, then parts, each with its kind, length and sum. Ours alone; it describes itself.
//
//   head   "VMMSTATE" u32 version u32 0
//   part   u32 kind, u32 number (counted from 0), u64 length, u32 CRC-32 of the payload, u32 CRC-32 of the 20 bytes before
//   machine   CBOR {type, ram: [{name, bytes}]}: first; a target that is another machine refuses here
//   pages     u32 block, u32 count (1 to 256), u64 first page, a bit a page (LSB first; set: its bytes follow; clear: zeros), bytes
//   section   CBOR {name, state}
//   end       nothing; what came before is all
//
// Numbers are little-endian. On channels that have a way back the target answers with one byte, 1 when it holds the whole machine, and the
// source with another, 1 when it has let go: only then the target runs it. So they never both do.
#pragma once

#include <vector>

#include "migration/channel.h"
#include "src/value/value.h"

namespace vmm::migration {

enum class Part : u32 { machine = 1, pages = 2, section = 3, end = 4 };
inline constexpr u32 stream_version = 1;
inline constexpr usize pages_a_part = 256;
inline constexpr u64 longest_pages = 16 + pages_a_part / 8 + pages_a_part * 4096, longest_section = 64 * MiB;

class Writer {
 public:
  explicit Writer(Channel& channel) : channel_(channel) {}
  Result<> head();
  Result<> part(Part kind, std::span<const u8> payload);
  Result<> described(Part kind, const Value& value);

 private:
  Channel& channel_;
  u32 number_ = 0;
};

class Reader {
 public:
  explicit Reader(Channel& channel) : channel_(channel) {}
  Result<> head();
  // The payload lives until the next call.
  struct Read {
    Part kind;
    std::span<const u8> payload;
  };
  Result<Read> next();

 private:
  Channel& channel_;
  u32 number_ = 0;
  std::vector<u8> payload_;
};

}  // namespace vmm::migration
