// See stream.h.
#include "migration/stream.h"

#include <array>
#include <cstring>

#include "src/base/bits.h"
#include "src/value/cbor.h"

namespace vmm::migration {

namespace {
constexpr std::array<u8, 8> magic = {'V', 'M', 'M', 'S', 'T', 'A', 'T', 'E'};
}  // namespace

Result<> Writer::head() {
  std::array<u8, 16> h{};
  std::memcpy(h.data(), magic.data(), magic.size());
  store_le<u32>(&h[8], stream_version);
  return sink_.write(h);
}

Result<> Writer::part(Part kind, std::span<const u8> payload) {
  std::array<u8, 24> h{};
  store_le<u32>(&h[0], static_cast<u32>(kind)), store_le<u32>(&h[4], number_++);
  store_le<u64>(&h[8], payload.size()), store_le<u32>(&h[16], sum_of(payload));
  store_le<u32>(&h[20], sum_of(std::span{h}.first(20)));
  TRY(sink_.write(h));
  return sink_.write(payload);
}
Result<> Writer::described(Part kind, const Value& value) { return part(kind, std::span<const u8>{to_cbor(value)}); }

Result<> Reader::head() {
  std::array<u8, 16> h;
  TRY(source_.read(h));
  if (std::memcmp(h.data(), magic.data(), magic.size()) != 0) return fail("this is not a stream of a machine's state");
  if (const u32 version = load_le<u32>(&h[8]); version != stream_version)
    return fail("the stream has version {}; this vmm reads version {}", version, stream_version);
  return {};
}

Result<Reader::Read> Reader::next() {
  std::array<u8, 24> h;
  TRY(source_.read(h));
  if (load_le<u32>(&h[20]) != sum_of(std::span{h}.first(20))) return fail("the stream is damaged: the head of part {}", number_);
  if (const u32 number = load_le<u32>(&h[4]); number != number_) return fail("part {} follows where {} is due", number, number_);
  const Part kind = static_cast<Part>(load_le<u32>(&h[0]));
  const u64 length = load_le<u64>(&h[8]);
  if (length > (kind == Part::pages || kind == Part::packed ? longest_pages : longest_section))
    return fail("part {} is too long: {} bytes", number_, length);
  payload_.resize(length);
  TRY(source_.read(payload_));
  if (load_le<u32>(&h[16]) != sum_of(payload_)) return fail("the stream is damaged: part {}", number_);
  number_++;
  return Read{kind, payload_};
}

}  // namespace vmm::migration
