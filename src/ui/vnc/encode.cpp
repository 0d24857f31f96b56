#include "src/ui/vnc/encode.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "src/base/assert.h"
#include "src/base/bits.h"

namespace vmm::ui::vnc {

void put16(std::vector<u8>& out, unsigned v) { out.push_back(static_cast<u8>(v >> 8)), out.push_back(static_cast<u8>(v)); }
void put32(std::vector<u8>& out, u32 v) { put16(out, v >> 16), put16(out, v & 0xffff); }
void put_header(std::vector<u8>& out, const Rectangle& r, i32 encoding) {
  put16(out, r.x), put16(out, r.y), put16(out, r.width), put16(out, r.height);
  put32(out, static_cast<u32>(encoding));
}

Result<PixelFormat> read_format(const u8* b) {
  PixelFormat f{.bits = b[0],
                .depth = b[1],
                .big_endian = b[2] != 0,
                .true_colour = b[3] != 0,
                .red_max = load_be<u16>(b + 4),
                .green_max = load_be<u16>(b + 6),
                .blue_max = load_be<u16>(b + 8),
                .red_shift = b[10],
                .green_shift = b[11],
                .blue_shift = b[12]};
  if (f.bits != 8 && f.bits != 16 && f.bits != 32) return fail("a pixel has 8, 16 or 32 bits, not {}", f.bits);
  if (!f.true_colour) {  // a palette client is given one that is a cube
    f.red_max = f.green_max = 7, f.blue_max = 3;
    f.red_shift = 0, f.green_shift = 3, f.blue_shift = 6;
    return f;
  }
  const auto fits = [&](u16 max, u8 shift) {
    const unsigned width = static_cast<unsigned>(std::bit_width(max));
    return max > 0 && std::has_single_bit(u32{max} + 1) && width + shift <= f.bits && width <= 8;
  };
  if (!fits(f.red_max, f.red_shift) || !fits(f.green_max, f.green_shift) || !fits(f.blue_max, f.blue_shift))
    return fail("colours do not fit the pixel");
  return f;
}

void write_format(const PixelFormat& f, std::vector<u8>& out) {
  out.insert(out.end(), {f.bits, f.depth, f.big_endian, f.true_colour});
  put16(out, f.red_max), put16(out, f.green_max), put16(out, f.blue_max);
  out.insert(out.end(), {f.red_shift, f.green_shift, f.blue_shift, 0, 0, 0});
}

namespace {
const u32* row_of(const Picture& p, const Rectangle& r, unsigned y) { return &p.pixels[usize{r.y + y} * p.width + r.x]; }
}  // namespace

void Encoder::pixel(u32 colour, std::vector<u8>& out) const {
  u32 v = format_.convert(colour);
  switch (format_.bits) {
    case 8: out.push_back(static_cast<u8>(v)); return;
    case 16:
      if (format_.big_endian) v = std::byteswap(static_cast<u16>(v));
      out.push_back(static_cast<u8>(v)), out.push_back(static_cast<u8>(v >> 8));
      return;
    default:
      if (format_.big_endian) v = std::byteswap(v);
      for (unsigned i = 0; i < 32; i += 8) out.push_back(static_cast<u8>(v >> i));
  }
}

void Encoder::raw(const Picture& p, const Rectangle& r, std::vector<u8>& out) const {
  out.reserve(out.size() + usize{r.width} * r.height * format_.bytes());
  const bool as_it_is = format_ == PixelFormat{};
  for (unsigned y = 0; y < r.height; y++) {
    const u32* const row = row_of(p, r, y);
    if (as_it_is) {
      const u8* const bytes = reinterpret_cast<const u8*>(row);
      out.insert(out.end(), bytes, bytes + usize{r.width} * 4);
    } else {
      for (unsigned x = 0; x < r.width; x++) pixel(row[x], out);
    }
  }
}

// §7.7.4: tiles of 16 x 16: background, foreground, rectangles of one or of several colours, or raw.
void Encoder::hextile(const Picture& p, const Rectangle& r, std::vector<u8>& out) const {
  enum : u8 { is_raw = 1, has_background = 2, has_foreground = 4, has_rectangles = 8, coloured = 16 };
  bool background_known = false;
  u32 background = 0;
  for (unsigned ty = 0; ty < r.height; ty += 16)
    for (unsigned tx = 0; tx < r.width; tx += 16) {
      const Rectangle tile{r.x + tx, r.y + ty, std::min(16u, r.width - tx), std::min(16u, r.height - ty)};
      // The commonest of the first colours met is the background.
      u32 colours[2] = {row_of(p, tile, 0)[0], 0};
      unsigned counts[2] = {0, 0}, known = 1;
      bool more = false;
      for (unsigned y = 0; y < tile.height; y++) {
        const u32* const row = row_of(p, tile, y);
        for (unsigned x = 0; x < tile.width; x++) {
          if (row[x] == colours[0]) {
            counts[0]++;
          } else if (known == 2 && row[x] == colours[1]) {
            counts[1]++;
          } else if (known == 1) {
            colours[known++] = row[x], counts[1] = 1;
          } else {
            more = true;
          }
        }
      }
      if (counts[1] > counts[0]) std::swap(colours[0], colours[1]);
      u8 mask = 0;
      const usize start = out.size();
      out.push_back(0);
      if (!background_known || background != colours[0]) {
        mask |= has_background;
        pixel(colours[0], out);
      }
      if (known == 2) {
        mask |= has_rectangles | (more ? coloured : has_foreground);
        if (!more) pixel(colours[1], out);
        const usize count_at = out.size();
        out.push_back(0);
        // Runs to the right, then down while the rows below have the same.
        bool done[16][16] = {};
        unsigned count = 0;
        for (unsigned y = 0; y < tile.height; y++)
          for (unsigned x = 0; x < tile.width; x++) {
            const u32 colour = row_of(p, tile, y)[x];
            if (done[y][x] || colour == colours[0]) continue;
            unsigned width = 1, height = 1;
            while (x + width < tile.width && row_of(p, tile, y)[x + width] == colour && !done[y][x + width]) width++;
            const auto same = [&](unsigned at) {
              for (unsigned i = x; i < x + width; i++)
                if (row_of(p, tile, at)[i] != colour || done[at][i]) return false;
              return true;
            };
            while (y + height < tile.height && same(y + height)) height++;
            for (unsigned j = y; j < y + height; j++)
              for (unsigned i = x; i < x + width; i++) done[j][i] = true;
            if (more) pixel(colour, out);
            out.push_back(static_cast<u8>(x << 4 | y)), out.push_back(static_cast<u8>((width - 1) << 4 | (height - 1)));
            count++;
          }
        out[count_at] = static_cast<u8>(count);
        const usize raw_bytes = usize{tile.width} * tile.height * format_.bytes() + 1;
        if (count > 255 || out.size() - start >= raw_bytes) {
          out.resize(start);
          out.push_back(is_raw);
          raw(p, tile, out);
          background_known = false;  // a raw tile leaves nothing to go by
          continue;
        }
      }
      out[start] = mask;
      background_known = true, background = colours[0];
    }
}

// §7.7.6: a pixel without its unused byte, where all colours lie in three bytes of four.
unsigned Encoder::compact_bytes() const {
  if (format_.bits != 32 || format_.depth > 24) return format_.bytes();
  const auto top = [](u16 max, u8 shift) { return static_cast<unsigned>(std::bit_width(max)) + shift; };
  const unsigned highest = std::max(
      {top(format_.red_max, format_.red_shift), top(format_.green_max, format_.green_shift), top(format_.blue_max, format_.blue_shift)});
  const unsigned lowest = std::min({format_.red_shift, format_.green_shift, format_.blue_shift});
  return highest <= 24 || lowest >= 8 ? 3 : 4;
}
void Encoder::compact_pixel(u32 colour, std::vector<u8>& out) const {
  const usize start = out.size();
  pixel(colour, out);
  if (compact_bytes() != 3 || format_.bits != 32) return;
  const unsigned lowest = std::min({format_.red_shift, format_.green_shift, format_.blue_shift});
  const bool low_bytes = lowest < 8;
  // The byte that is left out: the most significant one, or the least significant one.
  const usize drop = low_bytes != format_.big_endian ? 3 : 0;
  out.erase(out.begin() + static_cast<std::ptrdiff_t>(start + drop));
}

// Tiles of 64 x 64: one colour, a palette with packed or run-length indexes, run lengths, or raw.
void Encoder::zrle_tiles(const Picture& p, const Rectangle& r, std::vector<u8>& out) const {
  for (unsigned ty = 0; ty < r.height; ty += 64)
    for (unsigned tx = 0; tx < r.width; tx += 64) {
      const Rectangle tile{r.x + tx, r.y + ty, std::min(64u, r.width - tx), std::min(64u, r.height - ty)};
      u32 palette[16];
      unsigned colours = 0;
      for (unsigned y = 0; y < tile.height && colours <= 16; y++) {
        const u32* const row = row_of(p, tile, y);
        for (unsigned x = 0; x < tile.width && colours <= 16; x++) {
          if (colours && std::find(palette, palette + colours, row[x]) != palette + colours) continue;
          if (colours < 16) palette[colours] = row[x];
          colours++;
        }
      }
      if (colours > 16) {
        out.push_back(0);
        for (unsigned y = 0; y < tile.height; y++)
          for (unsigned x = 0; x < tile.width; x++) compact_pixel(row_of(p, tile, y)[x], out);
        continue;
      }
      out.push_back(static_cast<u8>(colours));
      for (unsigned i = 0; i < colours; i++) compact_pixel(palette[i], out);
      if (colours == 1) continue;
      const unsigned bits = colours <= 2 ? 1 : colours <= 4 ? 2 : 4;
      for (unsigned y = 0; y < tile.height; y++) {
        unsigned byte = 0, have = 0;
        for (unsigned x = 0; x < tile.width; x++) {
          const auto at = std::find(palette, palette + colours, row_of(p, tile, y)[x]) - palette;
          byte = byte << bits | static_cast<unsigned>(at), have += bits;
          if (have == 8) out.push_back(static_cast<u8>(byte)), byte = 0, have = 0;
        }
        if (have) out.push_back(static_cast<u8>(byte << (8 - have)));
      }
    }
}

bool Encoder::deflate_bytes(std::unique_ptr<Stream>& stream, const std::vector<u8>& data, std::vector<u8>& out) {
  if (!stream) stream = std::make_unique<Stream>();
  if (!stream->ready && deflateInit(&stream->z, level_) != Z_OK) return false;
  stream->ready = true;
  z_stream& z = stream->z;
  z.next_in = const_cast<u8*>(data.data());
  z.avail_in = static_cast<uInt>(data.size());
  do {
    const usize at = out.size();
    out.resize(at + std::max<usize>(4096, z.avail_in / 4));
    z.next_out = &out[at];
    z.avail_out = static_cast<uInt>(out.size() - at);
    const int done = deflate(&z, Z_SYNC_FLUSH);
    out.resize(out.size() - z.avail_out);
    if (done != Z_OK && done != Z_BUF_ERROR) return false;
  } while (z.avail_out == 0);
  return true;
}

bool Encoder::deflate_into(std::unique_ptr<Stream>& stream, const std::vector<u8>& data, std::vector<u8>& out) {
  const usize length_at = out.size();
  put32(out, 0);
  if (!deflate_bytes(stream, data, out)) return false;
  store_be<u32>(&out[length_at], static_cast<u32>(out.size() - length_at - 4));
  return true;
}

// "Tight": one colour; two colours, a bit a pixel; a palette, a byte a pixel; or all pixels. Each of the last three has its own zlib
// stream.
void Encoder::tight_pixel(u32 colour, std::vector<u8>& out) const {
  const bool three_bytes = format_.bits == 32 && format_.depth == 24 && format_.red_max == 255 && format_.green_max == 255 &&
                           format_.blue_max == 255 && format_.true_colour;
  if (!three_bytes) return pixel(colour, out);
  out.insert(out.end(), {static_cast<u8>(colour >> 16), static_cast<u8>(colour >> 8), static_cast<u8>(colour)});
}

bool Encoder::tight_data(unsigned stream, const std::vector<u8>& data, std::vector<u8>& out) {
  if (data.size() < 12) return out.insert(out.end(), data.begin(), data.end()), true;  // too little to be compressed
  std::vector<u8> packed;
  if (!deflate_bytes(tight_[stream], data, packed) || packed.size() >= 1u << 22) return false;
  const usize n = packed.size();
  out.push_back(static_cast<u8>((n & 127) | (n > 127 ? 128 : 0)));
  if (n > 127) out.push_back(static_cast<u8>((n >> 7 & 127) | (n > 0x3fff ? 128 : 0)));
  if (n > 0x3fff) out.push_back(static_cast<u8>(n >> 14));
  out.insert(out.end(), packed.begin(), packed.end());
  return true;
}

bool Encoder::tight(const Picture& p, const Rectangle& r, std::vector<u8>& out) {
  constexpr usize most_colours = 64;
  constexpr u8 fill = 0x80, with_filter = 0x40, palette_filter = 1;
  std::vector<u32> palette;
  for (unsigned y = 0; y < r.height && palette.size() <= most_colours; y++) {
    const u32* const row = row_of(p, r, y);
    for (unsigned x = 0; x < r.width && palette.size() <= most_colours; x++)
      if ((x == 0 || row[x] != row[x - 1]) && std::ranges::find(palette, row[x]) == palette.end()) palette.push_back(row[x]);
  }
  if (palette.size() == 1) {
    out.push_back(fill);
    tight_pixel(palette[0], out);
    return true;
  }
  std::vector<u8> data;
  if (palette.size() > most_colours) {
    data.reserve(usize{r.width} * r.height * format_.bytes());
    for (unsigned y = 0; y < r.height; y++)
      for (unsigned x = 0; x < r.width; x++) tight_pixel(row_of(p, r, y)[x], data);
    out.push_back(0);
    return tight_data(0, data, out);
  }
  const bool two = palette.size() == 2;
  out.push_back(static_cast<u8>(with_filter | (two ? 1 : 2) << 4));
  out.push_back(palette_filter);
  out.push_back(static_cast<u8>(palette.size() - 1));
  for (const u32 colour : palette) tight_pixel(colour, out);
  for (unsigned y = 0; y < r.height; y++) {
    const u32* const row = row_of(p, r, y);
    u8 byte = 0;
    usize last = 0;
    for (unsigned x = 0; x < r.width; x++) {
      if (row[x] != palette[last]) last = static_cast<usize>(std::ranges::find(palette, row[x]) - palette.begin());
      if (!two) {
        data.push_back(static_cast<u8>(last));
        continue;
      }
      byte = static_cast<u8>(byte << 1 | last);
      if (x % 8 == 7) data.push_back(byte), byte = 0;
    }
    if (two && r.width % 8) data.push_back(static_cast<u8>(byte << (8 - r.width % 8)));
  }
  return tight_data(two ? 1 : 2, data, out);
}

void Encoder::rectangle(const Picture& picture, const Rectangle& r, std::vector<u8>& out) {
  ASSERT(r.width && r.height && r.x + r.width <= picture.width && r.y + r.height <= picture.height);
  const usize start = out.size();
  put_header(out, r, encoding_);
  switch (encoding_) {
    case encoding_hextile: return hextile(picture, r, out);
    case encoding_tight:
      if (tight(picture, r, out)) return;
      out.resize(start);
      put_header(out, r, encoding_raw);
      return raw(picture, r, out);
    case encoding_zlib:
    case encoding_zrle: {
      std::vector<u8> plain;
      encoding_ == encoding_zlib ? raw(picture, r, plain) : zrle_tiles(picture, r, plain);
      if (deflate_into(encoding_ == encoding_zlib ? zlib_ : zrle_, plain, out)) return;
      out.resize(start);  // no memory for it: as it is
      put_header(out, r, encoding_raw);
      return raw(picture, r, out);
    }
    default: return raw(picture, r, out);
  }
}

}  // namespace vmm::ui::vnc
