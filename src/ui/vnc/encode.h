// Pictures as RFB carries them: pixel formats, encodings of rectangles. Source: RFC 6143 §7.4 (formats), §7.7 (encodings).
#pragma once

#include <zlib.h>

#include <array>
#include <memory>
#include <vector>

#include "src/base/result.h"
#include "src/base/types.h"
#include "src/ui/screen.h"

namespace vmm::ui::vnc {

struct PixelFormat {
  u8 bits = 32, depth = 24;
  bool big_endian = false, true_colour = true;
  u16 red_max = 255, green_max = 255, blue_max = 255;
  u8 red_shift = 16, green_shift = 8, blue_shift = 0;
  bool operator==(const PixelFormat&) const = default;
  unsigned bytes() const { return bits / 8; }
  // 0x00RRGGBB in this format.
  u32 convert(u32 pixel) const {
    const auto part = [](u32 v, u32 max, u8 shift) { return (max == 255 ? v : (v * max + 127) / 255) << shift; };
    return part(pixel >> 16 & 255, red_max, red_shift) | part(pixel >> 8 & 255, green_max, green_shift) |
           part(pixel & 255, blue_max, blue_shift);
  }
};
// 16 bytes as SetPixelFormat carries them; an error for what nobody can mean.
Result<PixelFormat> read_format(const u8* bytes);
void write_format(const PixelFormat& format, std::vector<u8>& out);

struct Rectangle {
  unsigned x = 0, y = 0, width = 0, height = 0;
};

enum Encoding : i32 {
  encoding_raw = 0,
  encoding_hextile = 5,
  encoding_zlib = 6,
  encoding_tight = 7,
  encoding_zrle = 16,
  encoding_desktop_size = -223,
  encoding_cursor = -239,
  encoding_pointer_type = -257,
  encoding_extended_key = -258,
  encoding_desktop_name = -307,
  encoding_extended_desktop_size = -308,
};

// One client's way of encoding. Streams of zlib go on from rectangle to rectangle.
class Encoder {
 public:
  void set_format(const PixelFormat& format) { format_ = format; }
  const PixelFormat& format() const { return format_; }
  void set_encoding(i32 encoding) { encoding_ = encoding; }
  i32 encoding() const { return encoding_; }
  void set_level(int level) { level_ = level; }  // of zlib, 0–9
  // The largest rectangle that the encoding allows.
  unsigned most_width() const { return encoding_ == encoding_tight ? 2048 : 65535; }
  unsigned most_pixels() const { return encoding_ == encoding_tight ? 1 << 18 : ~0u; }
  // Header and data of one rectangle, which lies inside the picture.
  void rectangle(const Picture& picture, const Rectangle& r, std::vector<u8>& out);

 private:
  void raw(const Picture& picture, const Rectangle& r, std::vector<u8>& out) const;
  void hextile(const Picture& picture, const Rectangle& r, std::vector<u8>& out) const;
  void zrle_tiles(const Picture& picture, const Rectangle& r, std::vector<u8>& out) const;
  struct Stream {  // stays where it was made: zlib keeps its address
    z_stream z{};
    bool ready = false;
    ~Stream() {
      if (ready) deflateEnd(&z);
    }
  };
  bool deflate_bytes(std::unique_ptr<Stream>& stream, const std::vector<u8>& data, std::vector<u8>& out);
  bool deflate_into(std::unique_ptr<Stream>& stream, const std::vector<u8>& data, std::vector<u8>& out);
  bool tight(const Picture& picture, const Rectangle& r, std::vector<u8>& out);
  bool tight_data(unsigned stream, const std::vector<u8>& data, std::vector<u8>& out);
  void tight_pixel(u32 colour, std::vector<u8>& out) const;
  void pixel(u32 colour, std::vector<u8>& out) const;
  void compact_pixel(u32 colour, std::vector<u8>& out) const;
  unsigned compact_bytes() const;

  PixelFormat format_;
  i32 encoding_ = encoding_raw;
  int level_ = 1;
  std::unique_ptr<Stream> zlib_, zrle_;
  std::array<std::unique_ptr<Stream>, 3> tight_;  // full colour, two colours, palette
};

void put16(std::vector<u8>& out, unsigned v);
void put32(std::vector<u8>& out, u32 v);
void put_header(std::vector<u8>& out, const Rectangle& r, i32 encoding);

}  // namespace vmm::ui::vnc
