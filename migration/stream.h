// The stream of a machine's state: a head, then parts, each with its kind, length and sum. Ours alone; it describes itself.
//
//   head   "VMMSTATE" u32 version u32 0
//   part   u32 kind, u32 number (counted from 0), u64 length, u32 CRC-32 of the payload, u32 CRC-32 of the 20 bytes before
//   machine   CBOR {type, ram: [{name, bytes}]}: first; a target that is another machine refuses here
//   pages     u32 block, u32 count (1 to 256), u64 first page, a bit a page (LSB first; set: its bytes follow; clear: zeros), bytes
//   section   CBOR {name, state}
//   end       nothing; what came before is all
//   image     CBOR {name, at, bytes}: of snapshots, a piece of a small disk that keeps no snapshots itself
//   lane      CBOR {number, of}: the first part of a further connection, which carries pages only (multifd)
//   sync      u32 round: on each connection at the end of a pass over RAM; what follows it may replace what came before on any other
//   packed    pages, compressed with zstd
//   placed    u32 block, u32 count, u64 first page, a bit a page, u32 CRC-32 for each page whose bit is set: its bytes lie in the file
//   itself
//
// In a file with places (mapped-ram) each page of RAM has a place of its own, so that the file does not grow with what the guest writes
// again and again: the machine says where each RAM begins (`placed: {at: [offset…], rest: offset}`, counted from the head), and the parts
// after it stand at `rest`. Pages of zeros are holes.
//
// Numbers are little-endian. On channels that have a way back three bytes of 1 follow: the target's when it holds the whole machine, the
// source's when it has let go of the disks, the target's when it has taken them. Only then it runs, so they never both do.
#pragma once

#include <span>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"
#include "src/value/value.h"

namespace vmm::migration {

enum class Part : u32 { machine = 1, pages = 2, section = 3, end = 4, image = 5, lane = 6, sync = 7, packed = 8, placed = 9 };
inline constexpr u32 stream_version = 2;
inline constexpr usize pages_a_part = 256;
inline constexpr u64 longest_pages = 16 + pages_a_part / 8 + pages_a_part * 4096, longest_section = 64 * MiB;

u32 sum_of(std::span<const u8> bytes);  // CRC-32

// Where bytes go, and where they come from: all of them, or an error.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual Result<> write(std::span<const u8> bytes) = 0;
};
class Source {
 public:
  virtual ~Source() = default;
  virtual Result<> read(std::span<u8> bytes) = 0;
};

class Writer {
 public:
  explicit Writer(Sink& sink) : sink_(sink) {}
  Result<> head();
  Result<> part(Part kind, std::span<const u8> payload);
  Result<> described(Part kind, const Value& value);

 private:
  Sink& sink_;
  u32 number_ = 0;
};

class Reader {
 public:
  explicit Reader(Source& source) : source_(source) {}
  Result<> head();
  // The payload lives until the next call.
  struct Read {
    Part kind;
    std::span<const u8> payload;
  };
  Result<Read> next();

 private:
  Source& source_;
  u32 number_ = 0;
  std::vector<u8> payload_;
};

}  // namespace vmm::migration
