#include "net/merge.h"

#include <algorithm>
#include <cstring>

namespace vmm::net {

namespace {
constexpr usize ip_at = 14, tcp_at = 34, longest = 65535 + 14;
u16 get16(std::span<const u8> f, usize at) { return static_cast<u16>(f[at] << 8 | f[at + 1]); }
u32 get32(std::span<const u8> f, usize at) { return u32{get16(f, at)} << 16 | get16(f, at + 2); }

// Length of the headers of an IPv4 TCP frame that carries data and nothing unusual; 0: it is something else.
usize plain_header(std::span<const u8> f) {
  if (f.size() < tcp_at + 20 || get16(f, 12) != 0x0800 || f[ip_at] != 0x45 || f[ip_at + 9] != 6) return 0;
  if (get16(f, ip_at + 6) & 0x3fff) return 0;  // a fragment
  const usize total = get16(f, ip_at + 2), header = tcp_at + (f[tcp_at + 12] >> 4) * usize{4};
  if (header < tcp_at + 20 || total + ip_at != f.size() || header >= f.size()) return 0;
  if ((f[tcp_at + 13] & ~0x08) != 0x10) return 0;  // ACK, perhaps PSH
  return header;
}
}  // namespace

bool SegmentMerger::add(std::span<const u8> f) {
  const usize header = plain_header(f);
  if (!header || closed_) return false;
  const usize payload = f.size() - header;
  if (frame_.empty()) {
    frame_.reserve(longest);
    frame_.assign(f.begin(), f.end());
    header_ = header, segment_ = payload, count_ = 1;
  } else {
    // The same connection, the same words of both headers but for identification, sums, sequence and PSH.
    const std::span<const u8> first{frame_};
    const auto same = [&](usize at, usize bytes) {
      return std::equal(f.begin() + static_cast<std::ptrdiff_t>(at), f.begin() + static_cast<std::ptrdiff_t>(at + bytes),
                        first.begin() + static_cast<std::ptrdiff_t>(at));
    };
    if (header != header_ || payload > segment_ || frame_.size() + payload > longest) return false;
    if (!same(0, ip_at + 2) || !same(ip_at + 6, 4) || !same(ip_at + 12, 12) || !same(tcp_at + 8, 5) || !same(tcp_at + 14, 2) ||
        !same(tcp_at + 18, header - tcp_at - 18))
      return false;
    if (get32(f, tcp_at + 4) != next_sequence_) return false;
    frame_.insert(frame_.end(), f.begin() + static_cast<std::ptrdiff_t>(header), f.end());
    frame_[tcp_at + 13] |= f[tcp_at + 13];
    count_++;
  }
  next_sequence_ = get32(f, tcp_at + 4) + static_cast<u32>(payload);
  closed_ = payload < segment_ || f[tcp_at + 13] & 0x08;
  return true;
}

std::pair<std::vector<u8>, Offload> SegmentMerger::take() {
  std::pair<std::vector<u8>, Offload> out{std::exchange(frame_, {}), {.checksum_good = true}};
  if (count_ > 1)
    if (const auto offload = prepare_segmentation(out.first, static_cast<u16>(segment_))) out.second = *offload;
  count_ = 0, closed_ = false;
  return out;
}

}  // namespace vmm::net
