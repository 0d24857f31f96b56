#include "src/ui/vnc/client.h"

#include "src/base/bits.h"
#include "src/ui/vnc/des.h"
#include "tests/unit/test.h"

using namespace vmm;
using namespace vmm::ui;
using namespace vmm::ui::vnc;

namespace {
Picture stripes(unsigned width, unsigned height) {
  Picture p{.width = width, .height = height, .pixels = {}};
  for (unsigned y = 0; y < height; y++)
    for (unsigned x = 0; x < width; x++)
      p.pixels.push_back(y < height / 2 ? (x / 3 % 2 ? 0xff0000u : 0x0000ffu) : x * 77 + y * 1234567 & 0xffffff);
  return p;
}

// The other side: what a viewer would see of a rectangle in hextile, 32 bits a pixel.
void draw_hextile(std::span<const u8>& in, Picture& p, const Rectangle& r) {
  const auto byte = [&] {
    const u8 b = in.front();
    in = in.subspan(1);
    return b;
  };
  const auto pixel = [&] {
    const u32 v = load_le<u32>(in.data());
    in = in.subspan(4);
    return v;
  };
  u32 background = 0, foreground = 0;
  for (unsigned ty = 0; ty < r.height; ty += 16)
    for (unsigned tx = 0; tx < r.width; tx += 16) {
      const unsigned w = std::min(16u, r.width - tx), h = std::min(16u, r.height - ty);
      const auto at = [&](unsigned x, unsigned y) -> u32& { return p.pixels[usize{r.y + ty + y} * p.width + r.x + tx + x]; };
      const u8 kind = byte();
      if (kind & 1) {
        for (unsigned y = 0; y < h; y++)
          for (unsigned x = 0; x < w; x++) at(x, y) = pixel();
        continue;
      }
      if (kind & 2) background = pixel();
      if (kind & 4) foreground = pixel();
      for (unsigned y = 0; y < h; y++)
        for (unsigned x = 0; x < w; x++) at(x, y) = background;
      for (unsigned n = kind & 8 ? byte() : 0; n; n--) {
        const u32 colour = kind & 16 ? pixel() : foreground;
        const u8 xy = byte(), wh = byte();
        for (unsigned y = 0; y <= (wh & 15u); y++)
          for (unsigned x = 0; x <= (wh >> 4u); x++) at((xy >> 4u) + x, (xy & 15u) + y) = colour;
      }
    }
}
}  // namespace

// FIPS 81's example, and the variable-plaintext test of NBS 500-20.
TEST(vnc_des_known_answers) {
  CHECK_EQ(des_encrypt(0x0123456789abcdef, 0x4e6f772069732074), 0x3fa40e8a984d4815u);
  CHECK_EQ(des_encrypt(0x0101010101010101, 0x8000000000000000), 0x95f8a5e5dd31d900u);
}

TEST(vnc_hextile_draws_the_same_picture) {
  const Picture picture = stripes(100, 70);
  Encoder encoder;
  encoder.set_encoding(encoding_hextile);
  std::vector<u8> out;
  const Rectangle r{3, 5, 90, 60};
  encoder.rectangle(picture, r, out);
  std::span<const u8> in{out};
  in = in.subspan(12);
  Picture seen{.width = 100, .height = 70, .pixels = std::vector<u32>(7000)};
  draw_hextile(in, seen, r);
  CHECK(in.empty());
  for (unsigned y = r.y; y < r.y + r.height; y++)
    for (unsigned x = r.x; x < r.x + r.width; x++) CHECK_EQ(seen.pixels[y * 100 + x], picture.pixels[y * 100 + x]);
}

TEST(vnc_pixel_formats) {
  u8 bytes[16] = {16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0};
  const PixelFormat f = OK(read_format(bytes));
  CHECK_EQ(f.convert(0xffffff), 0xffffu);
  CHECK_EQ(f.convert(0xff0000), 0xf800u);
  bytes[0] = 24;
  CHECK(!read_format(bytes));
  bytes[0] = 16, bytes[10] = 12;  // red would stick out
  CHECK(!read_format(bytes));
  bytes[10] = 11, bytes[5] = 30;  // not a mask
  CHECK(!read_format(bytes));
}

TEST(vnc_a_viewer_is_shown_only_what_has_changed) {
  Picture picture{.width = 64, .height = 32, .pixels = std::vector<u32>(64 * 32)};
  Shared shared{.picture = &picture, .layout = &find_layout(""), .desktop_name = "x", .right_password = {}, .make_challenge = {}};
  std::vector<u8> out;
  Client client{shared, [&](std::span<const u8> b) { out.insert(out.end(), b.begin(), b.end()); }};
  const auto say = [&](std::initializer_list<u8> b) { return client.receive(std::span<const u8>{b.begin(), b.size()}); };
  const auto text = [&](std::string_view s) { return client.receive({reinterpret_cast<const u8*>(s.data()), s.size()}); };
  CHECK(text("RFB 003.") == Client::Verdict::go_on);  // in pieces
  CHECK(text("008\n") == Client::Verdict::go_on);
  CHECK(say({1, 1}) == Client::Verdict::go_on);
  CHECK(client.initialized());
  CHECK_EQ(out.size(), usize{12 + 2 + 4 + 24 + 1});
  out.clear();
  CHECK(say({3, 0, 0, 0, 0, 0, 0, 64, 0, 32}) == Client::Verdict::go_on);
  client.update(false);
  CHECK(out.empty());  // it does not read
  client.update(true);
  CHECK_EQ(out.size(), usize{4 + 12 + 64 * 32 * 4});
  out.clear();
  CHECK(say({3, 1, 0, 0, 0, 0, 0, 64, 0, 32}) == Client::Verdict::go_on);
  client.update(true);
  CHECK(out.empty());  // nothing has changed
  const u8 tiles[8] = {0, 0, 1, 0, 0, 0, 1, 0};
  client.tiles_changed(tiles);
  client.update(true);
  CHECK_EQ(out.size(), usize{4 + 12 + 16 * 32 * 4});
  CHECK_EQ(load_be<u16>(&out[4]), 32u);
  CHECK(say({8}) == Client::Verdict::close);
}

TEST(keymaps_find_characters) {
  const auto at = [](std::string_view layout, u32 keysym) {
    const auto s = find_stroke(find_layout(layout), keysym);
    return s ? format("{}{}{}", s->shift ? "S" : "", s->alt_gr ? "G" : "", s->code) : "-";
  };
  CHECK_EQ(at("en-us", 'a'), std::string{"30"});
  CHECK_EQ(at("en-us", 'A'), std::string{"S30"});
  CHECK_EQ(at("de", 'z'), std::string{"21"});
  CHECK_EQ(at("de", '@'), std::string{"G16"});
  CHECK_EQ(at("de", 0xdf), std::string{"12"});
  CHECK_EQ(at("fr", '1'), std::string{"S2"});
  CHECK_EQ(at("fr", 'q'), std::string{"30"});
  CHECK_EQ(at("ja", '@'), std::string{"26"});
  CHECK_EQ(at("ru", 0x6c6), std::string{"30"});  // Cyrillic ef
  CHECK_EQ(at("cz", 0x1ec), std::string{"3"});   // ecaron
  CHECK_EQ(at("es", 0x01000000 + 0x20ac), std::string{"G6"});
  CHECK_EQ(at("nowhere", 0xff0d), std::string{"28"});
  CHECK_EQ(at("en-us", 0x12345), std::string{"-"});
}
