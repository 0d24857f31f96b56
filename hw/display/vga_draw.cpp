// From VGA state to a picture or text. Source: PS/2 Hardware Interface Technical Reference, "CRT Controller", "Attribute Controller".
#include <algorithm>
#include <cstring>

#include "hw/display/vga_core.h"
#include "src/memory/ram.h"

namespace vmm::hw {

u32 VgaCore::colour(u8 index) const {
  const u8* p = &palette_[(index & dac_mask_) * 3u];
  const bool wide = vbe_[vbe_enable] & vbe_8bit_dac;
  auto part = [&](u8 v) -> u32 { return wide ? v : u32(v & 63) << 2 | (v & 63) >> 4; };
  return part(p[0]) << 16 | part(p[1]) << 8 | part(p[2]);
}

u8 VgaCore::attribute_to_dac(u8 value) const {
  const u8 v = attribute_[value & 15];
  return static_cast<u8>(attribute_[0x10] & 0x80 ? (attribute_[0x14] & 15) << 4 | (v & 15) : (attribute_[0x14] & 12) << 4 | (v & 63));
}

unsigned VgaCore::lines() const { return (crtc_[0x12] | (crtc_[7] & 2u) << 7 | (crtc_[7] & 0x40u) << 3) + 1; }
unsigned VgaCore::line_bytes() const { return crtc_[0x13] * 8u; }
u32 VgaCore::start_bytes() const { return (crtc_[0x0d] | u32{crtc_[0x0c]} << 8) * 4; }

std::pair<unsigned, unsigned> VgaCore::text_size() const {
  if (!(attribute_index_ & 0x20) || graphics_mode()) return {0, 0};
  const unsigned height = (crtc_[9] & 0x1f) + 1u;
  const unsigned rows = lines() / height;
  return {crtc_[1] + 1u, std::min(rows, 256u)};
}

ui::Picture VgaCore::picture() const {
  ui::Picture p;
  if (!vbe_on() && !(attribute_index_ & 0x20)) return p;  // blanked
  if (vbe_on() && vbe_[vbe_bpp] > 4)
    draw_vbe(p);
  else if (graphics_mode())
    draw_vga(p);
  else
    draw_text(p);
  return p;
}

// A comparison with a copy: no dirty log of the memory is needed, which would slow down every store of the guest.
u64 VgaCore::generation() {
  u64 first = 0, last = std::min<u64>(256 * KiB, vram_->size_bytes());  // all planes
  if (vbe_on() && vbe_[vbe_bpp] > 4) {
    const unsigned bpp = vbe_[vbe_bpp], bytes = bpp == 15 ? 2 : bpp / 8;
    const u64 line = u64{vbe_[vbe_virt_width]} * bytes;
    first = std::min(line * vbe_[vbe_y_offset], vram_->size_bytes());
    last = std::min(first + line * vbe_[vbe_yres] + u64{vbe_[vbe_x_offset]} * bytes, vram_->size_bytes());
  }
  std::vector<u8> registers{misc_, dac_mask_, static_cast<u8>(attribute_index_ & 0x20)};
  const auto add = [&](const auto& list) {
    const auto* bytes = reinterpret_cast<const u8*>(list.data());
    registers.insert(registers.end(), bytes, bytes + list.size() * sizeof list[0]);
  };
  add(sequencer_), add(graphics_), add(attribute_), add(palette_), add(vbe_);
  registers.insert(registers.end(), crtc_.begin(), crtc_.begin() + 0x19);
  const usize head = registers.size();
  std::vector<u8> now = std::move(registers);
  now.resize(head + static_cast<usize>(last - first));
  if (last > first) memory::ram_copy_out(&now[head], vram_->host() + first, static_cast<usize>(last - first));
  if (now == seen_) return generation_;
  seen_ = std::move(now);
  return ++generation_;
}

void VgaCore::draw_text(ui::Picture& p) const {
  const auto [columns, rows] = text_size();
  const unsigned height = (crtc_[9] & 0x1f) + 1u, width = sequencer_[1] & 1 ? 8 : 9;
  if (!columns || !rows) return;
  p.width = columns * width, p.height = rows * height;
  p.pixels.assign(usize{p.width} * p.height, 0);
  u32 colours[16];
  for (u8 i = 0; i < 16; i++) colours[i] = colour(attribute_to_dac(i));
  const u8 map = sequencer_[3];
  const u64 font_a = ((map >> 4 & 1u) | (map << 1 & 6u)) * u64{8192} * 4 + 2,
            font_b = ((map >> 5 & 1u) | (map >> 1 & 6u)) * u64{8192} * 4 + 2;
  const bool blink = attribute_[0x10] & 8, line_graphics = attribute_[0x10] & 4;
  const u32 cursor = (crtc_[0x0f] | u32{crtc_[0x0e]} << 8) * 4;
  const unsigned cursor_first = crtc_[0x0a] & 0x1f, cursor_last = crtc_[0x0b] & 0x1f;
  const bool cursor_on = !(crtc_[0x0a] & 0x20);
  for (unsigned row = 0; row < rows; row++)
    for (unsigned column = 0; column < columns; column++) {
      const u32 at = start_bytes() + row * line_bytes() + column * 4;
      const u8 code = load(at), attribute = load(at + 1);
      const u32 foreground = colours[attribute & 15], background = colours[attribute >> 4 & (blink ? 7 : 15)];
      const u64 glyph = (attribute & 8 ? font_a : font_b) + code * u64{32 * 4};
      for (unsigned y = 0; y < height; y++) {
        unsigned bits = y < 32 ? load(glyph + y * 4) : 0u;
        // The ninth dot is background, but for line-drawing characters.
        bits = bits << 1 | (line_graphics && code >= 0xc0 && code <= 0xdf ? bits & 1 : 0);
        if (cursor_on && at == cursor && y >= cursor_first && y <= cursor_last) bits = 0x1ff;
        u32* out = &p.pixels[(usize{row} * height + y) * p.width + column * width];
        for (unsigned x = 0; x < width; x++) out[x] = bits >> (8 - x) & 1 ? foreground : background;
      }
    }
}

void VgaCore::draw_vga(ui::Picture& p) const {
  const unsigned shift = graphics_[5] >> 5 & 3;
  unsigned width = (crtc_[1] + 1u) * 8, height = lines();
  unsigned line = line_bytes();
  u32 start = start_bytes();
  unsigned repeat = ((crtc_[9] & 0x1fu) + 1) << (crtc_[9] >> 7);
  const bool vbe = vbe_on();
  if (vbe) {  // 4 bits a pixel in planes
    width = vbe_[vbe_xres], height = vbe_[vbe_yres], repeat = 1;
    line = vbe_[vbe_virt_width] / 2u, start = vbe_[vbe_y_offset] * line + vbe_[vbe_x_offset] / 2u;
  }
  p.width = width, p.height = height;
  p.pixels.assign(usize{width} * height, 0);
  const bool half = sequencer_[1] & 8;  // dot clock halved: pixels twice as wide
  const unsigned compare = vbe ? height : (crtc_[0x18] | (crtc_[7] & 0x10u) << 4 | (crtc_[9] & 0x40u) << 3);
  u32 row_start = start;
  unsigned scan = 0, row = 0;
  for (unsigned y = 0; y < height; y++) {
    u32 at = row_start;
    // Memory address bits 13 and 14 may come from the row scan counter: CGA and Hercules layouts.
    if (!vbe && !(crtc_[0x17] & 1)) {
      const u32 b = 1u << (14 + (crtc_[0x17] >> 6 & 1));
      at = (at & ~b) | (row & 1 ? b : 0);
    }
    if (!vbe && !(crtc_[0x17] & 2)) at = (at & ~0x8000u) | (row & 2 ? 0x8000u : 0);
    u32* out = &p.pixels[usize{y} * width];
    for (unsigned x = 0; x < width; x++) {
      const unsigned dot = half && shift != 2 ? x / 2 : x;
      u8 index = 0;
      if (shift == 2 && !vbe) {
        index = load(at + x / 2);
        out[x] = colour(index);
        continue;
      }
      if (shift == 1 && !vbe) {
        // Two bits a pixel: four from plane 0, four from plane 1; planes 2 and 3 give the upper bits.
        const u32 n = at + dot / 8 * 4 + (dot % 8 >= 4 ? 1 : 0);
        const unsigned s = 6 - dot % 4 * 2;
        index = static_cast<u8>((load(n) >> s & 3) | (load(n + 2) >> s & 3) << 2);
      } else {
        const u32 n = at + dot / 8 * 4;
        for (unsigned plane = 0; plane < 4; plane++) index |= static_cast<u8>((load(n + plane) >> (7 - dot % 8) & 1) << plane);
      }
      out[x] = colour(attribute_to_dac(index & attribute_[0x12] & 15));
    }
    if (++scan >= repeat) {
      scan = 0, row++;
      // With a CGA layout two rows share one address.
      if (vbe || (crtc_[0x17] & 1) || !(row & 1)) row_start += line;
    }
    if (y == compare) row_start = 0, row = 0, scan = 0;
  }
}

void VgaCore::draw_vbe(ui::Picture& p) const {
  const unsigned bpp = vbe_[vbe_bpp], bytes = bpp == 15 ? 2 : bpp / 8;
  p.width = vbe_[vbe_xres], p.height = vbe_[vbe_yres];
  p.pixels.resize(usize{p.width} * p.height);
  for (unsigned y = 0; y < p.height; y++) {
    u64 at = (u64{vbe_[vbe_virt_width]} * (y + vbe_[vbe_y_offset]) + vbe_[vbe_x_offset]) * bytes;
    u32* out = &p.pixels[usize{y} * p.width];
    if (bytes == 4 && at + u64{p.width} * 4 <= vram_->size_bytes()) {  // the usual mode, by rows
      memory::ram_copy_out(out, vram_->host() + at, usize{p.width} * 4);
      for (unsigned x = 0; x < p.width; x++) out[x] &= 0xff'ffff;
      continue;
    }
    for (unsigned x = 0; x < p.width; x++, at += bytes) {
      if (bytes == 1) {
        out[x] = colour(load(at));
        continue;
      }
      u32 v = 0;
      for (unsigned i = 0; i < std::min(bytes, 3u); i++) v |= u32{load(at + i)} << i * 8;
      if (bpp == 15)
        v = (v & 0x7c00) << 9 | (v & 0x03e0) << 6 | (v & 0x001f) << 3;
      else if (bpp == 16)
        v = (v & 0xf800) << 8 | (v & 0x07e0) << 5 | (v & 0x001f) << 3;
      out[x] = v;
    }
  }
}

// Code page 437, as the usual fonts have it.
static constexpr char16_t code_page_437[256] = {
    u' ',   0x263a, 0x263b, 0x2665, 0x2666, 0x2663, 0x2660, 0x2022, 0x25d8, 0x25cb, 0x25d9, 0x2642, 0x2640, 0x266a, 0x266b, 0x263c,
    0x25ba, 0x25c4, 0x2195, 0x203c, 0x00b6, 0x00a7, 0x25ac, 0x21a8, 0x2191, 0x2193, 0x2192, 0x2190, 0x221f, 0x2194, 0x25b2, 0x25bc,
    u' ',   u'!',   u'"',   u'#',   u'$',   u'%',   u'&',   u'\'',  u'(',   u')',   u'*',   u'+',   u',',   u'-',   u'.',   u'/',
    u'0',   u'1',   u'2',   u'3',   u'4',   u'5',   u'6',   u'7',   u'8',   u'9',   u':',   u';',   u'<',   u'=',   u'>',   u'?',
    u'@',   u'A',   u'B',   u'C',   u'D',   u'E',   u'F',   u'G',   u'H',   u'I',   u'J',   u'K',   u'L',   u'M',   u'N',   u'O',
    u'P',   u'Q',   u'R',   u'S',   u'T',   u'U',   u'V',   u'W',   u'X',   u'Y',   u'Z',   u'[',   u'\\',  u']',   u'^',   u'_',
    u'`',   u'a',   u'b',   u'c',   u'd',   u'e',   u'f',   u'g',   u'h',   u'i',   u'j',   u'k',   u'l',   u'm',   u'n',   u'o',
    u'p',   u'q',   u'r',   u's',   u't',   u'u',   u'v',   u'w',   u'x',   u'y',   u'z',   u'{',   u'|',   u'}',   u'~',   0x2302,
    0x00c7, 0x00fc, 0x00e9, 0x00e2, 0x00e4, 0x00e0, 0x00e5, 0x00e7, 0x00ea, 0x00eb, 0x00e8, 0x00ef, 0x00ee, 0x00ec, 0x00c4, 0x00c5,
    0x00c9, 0x00e6, 0x00c6, 0x00f4, 0x00f6, 0x00f2, 0x00fb, 0x00f9, 0x00ff, 0x00d6, 0x00dc, 0x00a2, 0x00a3, 0x00a5, 0x20a7, 0x0192,
    0x00e1, 0x00ed, 0x00f3, 0x00fa, 0x00f1, 0x00d1, 0x00aa, 0x00ba, 0x00bf, 0x2310, 0x00ac, 0x00bd, 0x00bc, 0x00a1, 0x00ab, 0x00bb,
    0x2591, 0x2592, 0x2593, 0x2502, 0x2524, 0x2561, 0x2562, 0x2556, 0x2555, 0x2563, 0x2551, 0x2557, 0x255d, 0x255c, 0x255b, 0x2510,
    0x2514, 0x2534, 0x252c, 0x251c, 0x2500, 0x253c, 0x255e, 0x255f, 0x255a, 0x2554, 0x2569, 0x2566, 0x2560, 0x2550, 0x256c, 0x2567,
    0x2568, 0x2564, 0x2565, 0x2559, 0x2558, 0x2552, 0x2553, 0x256b, 0x256a, 0x2518, 0x250c, 0x2588, 0x2584, 0x258c, 0x2590, 0x2580,
    0x03b1, 0x00df, 0x0393, 0x03c0, 0x03a3, 0x03c3, 0x00b5, 0x03c4, 0x03a6, 0x0398, 0x03a9, 0x03b4, 0x221e, 0x03c6, 0x03b5, 0x2229,
    0x2261, 0x00b1, 0x2265, 0x2264, 0x2320, 0x2321, 0x00f7, 0x2248, 0x00b0, 0x2219, 0x00b7, 0x221a, 0x207f, 0x00b2, 0x25a0, u' '};

std::string VgaCore::text() const {
  const auto [columns, rows] = text_size();
  std::string out;
  for (unsigned row = 0; row < rows; row++) {
    std::string line;
    for (unsigned column = 0; column < columns; column++) {
      const char16_t c = code_page_437[load(start_bytes() + row * line_bytes() + column * 4)];
      if (c < 0x80) {
        line += static_cast<char>(c);
      } else if (c < 0x800) {
        line += static_cast<char>(0xc0 | c >> 6), line += static_cast<char>(0x80 | (c & 63));
      } else {
        line += static_cast<char>(0xe0 | c >> 12), line += static_cast<char>(0x80 | (c >> 6 & 63)),
            line += static_cast<char>(0x80 | (c & 63));
      }
    }
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  while (out.ends_with("\n\n")) out.pop_back();
  return out;
}

}  // namespace vmm::hw
