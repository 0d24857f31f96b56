// One viewer: the handshake, what it sends, and what it is shown. Source: RFC 6143; the extensions of the RFB community's "rfbproto".
// Main loop, machine lock held.
#pragma once

#include <array>
#include <functional>
#include <span>
#include <string>

#include "src/ui/keymap.h"
#include "src/ui/pointer.h"
#include "src/ui/vnc/encode.h"

namespace vmm::ui::vnc {

// What a viewer needs of the server; apart, so that a fuzzer can be one.
struct Shared {
  const Picture* picture = nullptr;  // never empty
  const Layout* layout = nullptr;
  std::string desktop_name;
  bool password = false;  // of the VNC kind is asked for
  std::function<bool(const std::array<u8, 16>& challenge, const std::array<u8, 16>& answer)> right_password;
  std::function<std::array<u8, 16>()> make_challenge;
};

class Client {
 public:
  // `out`: bytes for the viewer, in order.
  Client(const Shared& shared, std::function<void(std::span<const u8>)> out);
  ~Client();
  Client(const Client&) = delete;

  enum class Verdict : u8 { go_on, close };
  Verdict receive(std::span<const u8> bytes);
  std::string_view reason() const { return reason_; }  // of a close

  // The picture has changed in tiles of 16 x 16 (rows of `columns()` bytes, 1: changed), or as a whole.
  void tiles_changed(std::span<const u8> tiles);
  void size_changed();
  // Sends what is due, if an update was asked for and `room`: the viewer reads what it is sent.
  void update(bool room);
  bool wants_update() const { return asked_; }
  void name_changed() {}

  bool initialized() const { return state_ == State::messages; }
  bool wants_to_be_alone() const { return exclusive_; }
  static constexpr unsigned tile = 16;
  static constexpr usize longest_message = 1 * MiB;

 private:
  enum class State : u8 { version, security_choice, answer, initialization, messages };
  Verdict step(std::span<const u8>& in, bool& starved);
  Verdict fail(std::string_view why) { return reason_ = why, Verdict::close; }
  Verdict version(std::span<const u8> line);
  Verdict choose(u8 type);
  Verdict check_answer(std::span<const u8> answer);
  Verdict admit(bool security_result);
  Verdict begin(bool shared);
  Verdict message(std::span<const u8>& in, bool& starved);
  Verdict set_format(std::span<const u8> body);
  void set_encodings(std::span<const u8> list);
  Verdict ask(std::span<const u8> body);
  void key(u32 keysym, bool down);
  void raw_key(u32 keysym, u32 scan, bool down);
  void press(u16 code, bool down);
  void pointer(u8 buttons, unsigned x, unsigned y);
  void release_all();
  unsigned columns() const { return (shared_.picture->width + tile - 1) / tile; }
  unsigned rows() const { return (shared_.picture->height + tile - 1) / tile; }
  bool announce_size(unsigned reason, unsigned status, std::vector<u8>& out, unsigned& count);
  void send(std::span<const u8> bytes) { out_(bytes); }
  void send_result(bool good, std::string_view why);

  const Shared& shared_;
  std::function<void(std::span<const u8>)> out_;
  State state_ = State::version;
  std::vector<u8> input_;
  std::string reason_;
  unsigned minor_ = 8;
  bool exclusive_ = false;
  std::array<u8, 16> challenge_{};

  Encoder encoder_;
  bool knows_size_ = false, knows_extended_size_ = false, knows_pointer_type_ = false;
  unsigned width_ = 0, height_ = 0;  // as the viewer knows them
  bool resized_ = false, tell_size_ = false, tell_pointer_ = false, tell_keys_ = false;
  unsigned size_reason_ = 0, size_status_ = 0;

  std::vector<u8> dirty_;
  bool asked_ = false;
  Rectangle asked_for_;

  std::vector<u16> pressed_;
  struct Synthetic {  // a key that was pressed for a character, with the modifiers that were added to it
    u32 keysym;
    u16 code;
  };
  std::vector<Synthetic> characters_;
  bool caps_ = false;
  int last_x_ = -1, last_y_ = -1;
  bool absolute_told_ = false;
  u8 buttons_ = 0;
};

}  // namespace vmm::ui::vnc
