// A viewer's bytes, in pieces as the first byte says, against one screen that changes between them; with a password where a bit says so.
#include "src/ui/vnc/client.h"
#include "src/ui/vnc/des.h"

[[maybe_unused]] static constexpr const char* parts[] = {
    "client: Client::receive, Client::step, Client::version, Client::choose, Client::check_answer, Client::message, Client::set_format, "
    "Client::set_encodings, Client::ask, Client::update",
};

extern "C" int LLVMFuzzerTestOneInput(const vmm::u8* data, size_t size) {
  using namespace vmm;
  using namespace vmm::ui;
  using namespace vmm::ui::vnc;
  if (size < 2) return 0;
  const usize piece = data[0] % 64 + 1;
  const u8 how = data[1];
  Picture picture{.width = how & 2 ? 33u : 64u, .height = 40, .pixels = {}};
  picture.pixels.assign(usize{picture.width} * picture.height, 0x123456);
  Shared shared{.picture = &picture,
                .layout = &find_layout(how & 4 ? "de" : ""),
                .desktop_name = "fuzz",
                .password = (how & 1) != 0,
                .right_password = [](const auto& challenge, const auto& answer) { return challenge_answer(challenge, "pw") == answer; },
                .make_challenge = [] { return std::array<u8, 16>{1, 2, 3}; }};
  usize sent = 0;
  Client client{shared, [&](std::span<const u8> bytes) { sent += bytes.size(); }};
  for (usize at = 2; at < size; at += piece) {
    if (client.receive({data + at, std::min(piece, size - at)}) == Client::Verdict::close) break;
    picture.pixels[at * 7 % picture.pixels.size()] = static_cast<u32>(at * 0x12345);
    if (at % 5 == 0 && (how & 8)) {
      picture.width = picture.width == 64 ? 48 : 64;
      picture.pixels.assign(usize{picture.width} * picture.height, static_cast<u32>(at));
      client.size_changed();
    }
    std::vector<u8> tiles(usize{(picture.width + 15) / 16} * ((picture.height + 15) / 16), 1);
    client.tiles_changed(tiles);
    client.update(sent < 64 * MiB);
  }
  return 0;
}
