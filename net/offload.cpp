// Checksums and segmentation in software, for receivers that want whole frames. RFC 1071 (sums), RFC 791 and 8200 (IP), RFC 9293 (TCP),
// RFC 768 (UDP), virtio 1.2 §5.1.6.2 (what the words mean). Frames are the guest's: nothing in them is believed.
#include <algorithm>
#include <bit>
#include <cstring>

#include "net/net.h"

namespace vmm::net {

namespace {

u16 get16(std::span<const u8> b, usize at) { return static_cast<u16>(b[at] << 8 | b[at + 1]); }
void put16(std::span<u8> b, usize at, u16 v) { b[at] = static_cast<u8>(v >> 8), b[at + 1] = static_cast<u8>(v); }
u32 get32(std::span<const u8> b, usize at) { return u32{get16(b, at)} << 16 | get16(b, at + 2); }
void put32(std::span<u8> b, usize at, u32 v) { put16(b, at, static_cast<u16>(v >> 16)), put16(b, at + 2, static_cast<u16>(v)); }

struct Headers {
  usize ip = 0, transport = 0, payload = 0;
  bool six = false, tcp = false;
};

// Where the headers lie; nothing if they are not all there.
std::optional<Headers> find_headers(std::span<const u8> f) {
  Headers h;
  usize at = 12;
  if (f.size() < 14) return std::nullopt;
  u16 kind = get16(f, at);
  for (unsigned tags = 0; (kind == 0x8100 || kind == 0x88a8) && tags < 2; tags++) {
    at += 4;
    if (f.size() < at + 2) return std::nullopt;
    kind = get16(f, at);
  }
  h.ip = at + 2;
  u8 protocol = 0;
  if (kind == 0x0800) {
    if (f.size() < h.ip + 20 || f[h.ip] >> 4 != 4) return std::nullopt;
    const usize length = (f[h.ip] & 15) * usize{4};
    if (length < 20) return std::nullopt;
    h.transport = h.ip + length, protocol = f[h.ip + 9];
  } else if (kind == 0x86dd) {
    if (f.size() < h.ip + 40) return std::nullopt;
    h.six = true, protocol = f[h.ip + 6], h.transport = h.ip + 40;
    // Extension headers: hop-by-hop, routing, destination options.
    for (unsigned n = 0; (protocol == 0 || protocol == 43 || protocol == 60) && n < 8; n++) {
      if (f.size() < h.transport + 8) return std::nullopt;
      protocol = f[h.transport], h.transport += (f[h.transport + 1] + usize{1}) * 8;
    }
  } else {
    return std::nullopt;
  }
  if (protocol == 6) {
    if (f.size() < h.transport + 20) return std::nullopt;
    const usize length = (f[h.transport + 12] >> 4) * usize{4};
    if (length < 20) return std::nullopt;
    h.tcp = true, h.payload = h.transport + length;
  } else if (protocol == 17) {
    h.payload = h.transport + 8;
  } else {
    return std::nullopt;
  }
  if (h.payload > f.size()) return std::nullopt;
  return h;
}

// Length and header sums of a finished frame.
void finish_ip(std::span<u8> f, const Headers& h) {
  if (h.six) {
    put16(f, h.ip + 4, static_cast<u16>(f.size() - h.ip - 40));
  } else {
    put16(f, h.ip + 2, static_cast<u16>(f.size() - h.ip));
    put16(f, h.ip + 10, 0);
    put16(f, h.ip + 10, internet_checksum(internet_sum(f.subspan(h.ip, h.transport - h.ip))));
  }
}
void finish_transport(std::span<u8> f, const Headers& h) {
  const usize length = f.size() - h.transport, field = h.transport + (h.tcp ? 16 : 6);
  u32 sum = internet_sum(h.six ? f.subspan(h.ip + 8, 32) : f.subspan(h.ip + 12, 8));
  sum += static_cast<u32>(length) + (h.tcp ? 6 : 17);
  put16(f, field, 0);
  sum = internet_sum(f.subspan(h.transport), sum);
  u16 result = internet_checksum(sum);
  if (!h.tcp && !result) result = 0xffff;
  put16(f, field, result);
}

// IPv4 fragments of one UDP datagram.
std::vector<std::vector<u8>> fragment(std::vector<u8> whole, const Headers& h, usize most) {
  std::vector<std::vector<u8>> out;
  finish_ip(whole, h);
  put16(whole, h.transport + 4, static_cast<u16>(whole.size() - h.transport));
  finish_transport(whole, h);
  const std::span<const u8> body = std::span<const u8>{whole}.subspan(h.transport);
  const usize step = most & ~usize{7};
  if (step < 8) return out;
  for (usize at = 0; at < body.size(); at += step) {
    const usize n = std::min(step, body.size() - at);
    std::vector<u8>& f = out.emplace_back(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(h.transport));
    f.insert(f.end(), body.begin() + static_cast<std::ptrdiff_t>(at), body.begin() + static_cast<std::ptrdiff_t>(at + n));
    put16(f, h.ip + 6, static_cast<u16>((at + n < body.size() ? 0x2000 : 0) | at / 8));
    finish_ip(f, h);
  }
  return out;
}

}  // namespace

u32 internet_sum(std::span<const u8> bytes, u32 sum) {
  // In the host's (little-endian) order, eight bytes a step; the sum is byte-order neutral but for one swap at the end.
  u64 total = 0;
  usize at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    u64 word;
    std::memcpy(&word, &bytes[at], 8);
    total += word;
    total += total < word;
  }
  u64 tail = 0;
  if (at < bytes.size()) std::memcpy(&tail, &bytes[at], bytes.size() - at);
  total += tail;
  total += total < tail;
  total = (total & 0xffff'ffff) + (total >> 32);
  total = (total & 0xffff'ffff) + (total >> 32);
  u32 folded = static_cast<u32>((total & 0xffff) + (total >> 16));
  folded = (folded & 0xffff) + (folded >> 16);
  folded = (folded & 0xffff) + (folded >> 16);
  const u32 swapped = (folded & 0xff) << 8 | folded >> 8;
  sum = (sum & 0xffff) + (sum >> 16);
  return sum + swapped;
}

bool finish_checksum(std::span<u8> frame, const Offload& offload) {
  if (!offload.needs_checksum) return true;
  const usize from = offload.checksum_start, field = from + offload.checksum_offset;
  if (from >= frame.size() || field + 2 > frame.size()) return false;
  u16 result = internet_checksum(internet_sum(frame.subspan(from)));
  if (!result && offload.checksum_offset == 6) result = 0xffff;  // UDP: 0 means that there is no sum
  put16(frame, field, result);
  return true;
}

std::optional<Offload> prepare_segmentation(std::span<u8> f, u16 segment_bytes) {
  const auto h = find_headers(f);
  if (!h || !segment_bytes) return std::nullopt;
  finish_ip(f, *h);
  const usize length = f.size() - h->transport, field = h->transport + (h->tcp ? 16 : 6);
  if (!h->tcp) put16(f, h->transport + 4, static_cast<u16>(length));
  u32 sum = internet_sum(h->six ? f.subspan(h->ip + 8, 32) : f.subspan(h->ip + 12, 8));
  sum += static_cast<u32>(length) + (h->tcp ? 6 : 17);
  put16(f, field, static_cast<u16>(~internet_checksum(sum)));
  using Segment = Offload::Segment;
  Offload o{.needs_checksum = true,
            .header_bytes = static_cast<u16>(h->payload),
            .segment_bytes = segment_bytes,
            .checksum_start = static_cast<u16>(h->transport),
            .checksum_offset = static_cast<u16>(field - h->transport)};
  if (f.size() - h->payload > segment_bytes) o.segment = !h->tcp ? Segment::udp4_or_6 : h->six ? Segment::tcp6 : Segment::tcp4;
  return o;
}

std::vector<std::vector<u8>> segment(std::span<const u8> frame, const Offload& offload) {
  std::vector<std::vector<u8>> out;
  const auto h = find_headers(frame);
  const usize most = offload.segment_bytes;
  if (!h || most < 8) return out;
  const bool wants_tcp = offload.segment == Offload::Segment::tcp4 || offload.segment == Offload::Segment::tcp6;
  if (wants_tcp != h->tcp) return out;
  if (offload.segment == Offload::Segment::udp_fragment) {
    if (h->six) return out;  // removed from Linux in 4.14; IPv6 never had users
    return fragment({frame.begin(), frame.end()}, *h, most);
  }
  const std::span<const u8> body = frame.subspan(h->payload);
  // A hostile size would make tens of thousands of frames; what no stack sends is not sent on.
  if (body.size() / most > 1024) return out;
  const u32 sequence = h->tcp ? get32(frame, h->transport + 4) : 0;
  const u16 identification = h->six ? 0 : get16(frame, h->ip + 4);
  usize at = 0;
  do {
    const usize n = std::min(most, body.size() - at);
    std::vector<u8>& f = out.emplace_back();
    f.reserve(h->payload + n);
    f.assign(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(h->payload));
    f.insert(f.end(), body.begin() + static_cast<std::ptrdiff_t>(at), body.begin() + static_cast<std::ptrdiff_t>(at + n));
    if (!h->six) put16(f, h->ip + 4, static_cast<u16>(identification + out.size() - 1));
    if (h->tcp) {
      put32(f, h->transport + 4, sequence + static_cast<u32>(at));
      u8& flags = f[h->transport + 13];
      if (at + n < body.size()) flags &= static_cast<u8>(~0x09);  // FIN and PSH on the last one only
      if (at) flags &= 0x7f;                                      // CWR on the first
    } else {
      put16(f, h->transport + 4, static_cast<u16>(8 + n));
    }
    finish_ip(f, *h);
    finish_transport(f, *h);
    at += n;
  } while (at < body.size());
  return out;
}

}  // namespace vmm::net
