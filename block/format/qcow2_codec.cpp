// Source: "The QCOW2 image format", "Compressed Clusters"; zlib's and libzstd's manuals.
#include "block/format/qcow2_codec.h"

#include <zlib.h>
#include <zstd.h>

#include <memory>

namespace vmm::block::qcow2 {
namespace {

constexpr int window_bits = -12;  // raw deflate, 4 KiB: what every reader of the format expects

// Making a deflate state costs as much as packing a small cluster: each thread keeps one.
struct Deflate {
  z_stream stream{};
  bool good = false;
  Deflate() { good = deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, window_bits, 9, Z_DEFAULT_STRATEGY) == Z_OK; }
  ~Deflate() {
    if (good) deflateEnd(&stream);
  }
};
struct FreeZstd {
  void operator()(ZSTD_CCtx* c) const { ZSTD_freeCCtx(c); }
  void operator()(ZSTD_DCtx* c) const { ZSTD_freeDCtx(c); }
};

}  // namespace

Result<std::vector<u8>> unpack(Compression how, std::span<const u8> packed, u64 bytes) {
  std::vector<u8> plain(bytes);
  if (how == Compression::zlib) {
    z_stream s{};
    if (inflateInit2(&s, window_bits) != Z_OK) return refuse(ENOMEM, "zlib");
    s.next_in = const_cast<u8*>(packed.data()), s.avail_in = static_cast<uInt>(packed.size());
    s.next_out = plain.data(), s.avail_out = static_cast<uInt>(bytes);
    const int end = inflate(&s, Z_FINISH);
    const bool whole = (end == Z_STREAM_END || (end == Z_BUF_ERROR && s.avail_out == 0)) && s.avail_out == 0;
    inflateEnd(&s);
    if (!whole) return refuse(EIO, "compressed cluster is damaged");
    return plain;
  }
  thread_local std::unique_ptr<ZSTD_DCtx, FreeZstd> context{ZSTD_createDCtx()};
  if (!context) return refuse(ENOMEM, "zstd");
  ZSTD_DCtx_reset(context.get(), ZSTD_reset_session_only);
  ZSTD_inBuffer in{packed.data(), packed.size(), 0};
  ZSTD_outBuffer out{plain.data(), plain.size(), 0};
  while (out.pos < out.size) {
    const usize before_in = in.pos, before_out = out.pos;
    const usize left = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(left) || (in.pos == before_in && out.pos == before_out)) return refuse(EIO, "compressed cluster is damaged");
    if (left == 0 && out.pos < out.size) return refuse(EIO, "compressed cluster is damaged");
  }
  return plain;
}

Result<std::vector<u8>> pack(Compression how, std::span<const u8> plain) {
  std::vector<u8> packed(plain.size() - 1);  // one byte less, or it is not worth it
  if (how == Compression::zlib) {
    thread_local Deflate deflater;
    if (!deflater.good) return refuse(ENOMEM, "zlib");
    z_stream& s = deflater.stream;
    deflateReset(&s);
    s.next_in = const_cast<u8*>(plain.data()), s.avail_in = static_cast<uInt>(plain.size());
    s.next_out = packed.data(), s.avail_out = static_cast<uInt>(packed.size());
    if (deflate(&s, Z_FINISH) != Z_STREAM_END) return std::vector<u8>{};
    packed.resize(packed.size() - s.avail_out);
    return packed;
  }
  thread_local std::unique_ptr<ZSTD_CCtx, FreeZstd> context{ZSTD_createCCtx()};
  if (!context) return refuse(ENOMEM, "zstd");
  const usize n = ZSTD_compressCCtx(context.get(), packed.data(), packed.size(), plain.data(), plain.size(), ZSTD_CLEVEL_DEFAULT);
  if (ZSTD_isError(n)) return std::vector<u8>{};
  packed.resize(n);
  return packed;
}

}  // namespace vmm::block::qcow2
