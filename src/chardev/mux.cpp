// One back end for several front ends: keys after the escape key choose who gets what is typed; all of them write.
// Source of the keys: contract.md §7.
#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <deque>

#include "src/chardev/make.h"

namespace vmm {

namespace {

struct MuxActions {
  std::function<void()> quit, save;
};
MuxActions& actions() {
  static auto* a = new MuxActions;
  return *a;
}
u8 escape_key = 1;  // Ctrl-A; set before muxes are made

struct MuxOptions {
  std::optional<std::string> chardev;
};

class MuxChardev final : public Chardev, public CharFrontEnd {
 public:
  static const TypeInfo type;
  ~MuxChardev() override {
    if (base_) base_->detach(*this);
  }
  Result<> open(Ref<Chardev> base) {
    TRY(base->attach(*this));
    base_ = std::move(base);
    open_ = base_->connected();
    return {};
  }

  // --- Towards the front ends
  Result<> attach(CharFrontEnd& front) override {
    if (find(&front)) return {};
    if (fronts_.size() >= 4) return fail("too many uses of multiplexed chardev '{}' (maximum is 4)", label());
    fronts_.push_back({.front = &front, .waiting = {}});
    Chardev::set_open(true);
    if (open_) front.char_event(ChardevEvent::opened);
    const bool device_has_it = front_ && front_->takes_focus();
    if (front.takes_focus() || !device_has_it) front_ = &front;
    settle_later();
    update_input();
    return {};
  }
  void detach(CharFrontEnd& front) override {
    std::erase_if(fronts_, [&](const Front& f) { return f.front == &front; });
    if (told_ == &front) told_ = nullptr;
    if (front_ != &front) return;
    front_ = fronts_.empty() ? nullptr : fronts_.back().front;
    settle_later();
  }
  usize write(std::span<const u8> bytes) override {
    if (must_wait()) return 0;
    const usize n = stamps_ ? write_stamped(bytes) : base_->write(bytes);
    if (n < bytes.size()) was_short();
    return n;
  }
  void set_break(bool on) override { base_->set_break(on); }
  void set_open(bool on) override {
    Chardev::set_open(on);
    base_->set_open(on);
  }
  Fd take_fd() override { return base_->take_fd(); }
  void set_echo(bool on) override { base_->set_echo(on); }
  void keep_to_own_user() override { base_->keep_to_own_user(); }
  std::string filename() const override { return "mux"; }
  bool is_mux() const override { return true; }
  void echr(u8 key) override { key_ = key; }
  Result<> may_remove() const override {
    if (!fronts_.empty()) return fail("Chardev '{}' is busy", label());
    return {};
  }
  void update_input() override {
    drain();
    if (base_) base_->accept_input();
  }

  // --- Towards the back end
  usize can_receive() override {
    const Front* f = find(front_);
    return f && f->waiting.size() < waiting_limit ? waiting_limit - f->waiting.size() : 0;
  }
  void receive(std::span<const u8> bytes) override {
    const Ref<Chardev> keep{this};
    drain();
    for (const u8 b : bytes) {
      if (!key_before_ && b == key_) {
        key_before_ = true;
      } else if (!std::exchange(key_before_, false) || b == key_) {
        if (Front* f = find(front_)) f->waiting.push_back(b);
      } else {
        drain();
        key(b);
      }
    }
    drain();
  }
  void char_event(ChardevEvent e) override {
    if (e == ChardevEvent::break_) {
      if (front_) front_->char_event(e);
      return;
    }
    if (e == ChardevEvent::opened) open_ = true;
    if (e == ChardevEvent::closed) open_ = false;
    for (const Front& f : std::vector<Front>{fronts_}) f.front->char_event(e);
  }
  void can_send() override {
    output_ready();
    for (const Front& f : std::vector<Front>{fronts_})
      if (f.front != front_) f.front->can_send();  // output_ready has told the one with the focus
    if (front_) front_->can_send();
  }

 private:
  static constexpr usize waiting_limit = 64;
  struct Front {
    CharFrontEnd* front;
    std::deque<u8> waiting;
  };
  Front* find(const CharFrontEnd* front) {
    auto at = std::ranges::find(fronts_, front, &Front::front);
    return at == fronts_.end() ? nullptr : &*at;
  }
  // At the start several front ends come one after the other: only the last one is told that it has the keyboard, so that a monitor
  // does not greet on a console that is not its own.
  void settle_later() {
    chardev_loop()->post([keep = Ref<MuxChardev>{this}] { keep->settle(); });
  }
  void settle() {
    if (front_ == told_) return;
    CharFrontEnd* before = std::exchange(told_, front_);
    if (before) before->char_event(ChardevEvent::mux_out);
    if (front_ && front_ == told_) front_->char_event(ChardevEvent::mux_in);
  }
  void set_focus(CharFrontEnd* front) {
    front_ = front;
    settle();
  }
  // Gives the focused front end what waits for it.
  void drain() {
    while (Front* f = find(front_)) {
      if (f->waiting.empty()) return;
      const usize n = std::min(f->front->can_receive(), f->waiting.size());
      if (!n) return;
      const std::vector<u8> part{f->waiting.begin(), f->waiting.begin() + isize(n)};
      f->waiting.erase(f->waiting.begin(), f->waiting.begin() + isize(n));
      f->front->receive(part);
    }
  }
  using isize = std::ptrdiff_t;

  void say(std::string_view text) { write_all({reinterpret_cast<const u8*>(text.data()), text.size()}); }
  void key(u8 b) {
    switch (b) {
      case 'h':
      case '?': {
        const std::string name = key_ >= 1 && key_ <= 26 ? format("C-{}", char('a' + key_ - 1)) : format("{:#04x}", key_);
        say(
            format("\n\r{0} h    this help\n\r{0} x    end the emulator\n\r{0} s    write disk data back to the files (with -snapshot)\n\r"
                   "{0} t    time stamps on or off\n\r{0} b    send a break (magic SysRq)\n\r"
                   "{0} c    switch between console and monitor\n\r{0} {0}  send {0}\n\r",
                   name));
        break;
      }
      case 'x':
        stamps_ = false;
        say("QEMU: Terminated\n\r");
        if (actions().quit) return actions().quit();
        restore_terminals();
        std::exit(0);
      case 's':
        if (actions().save) actions().save();
        break;
      case 'b':
        if (front_) front_->char_event(ChardevEvent::break_);
        break;
      case 'c': {
        const Front* now = find(front_);
        if (!now || fronts_.size() < 2) break;
        const usize index = usize(now - fronts_.data());
        set_focus(fronts_[(index + 1) % fronts_.size()].front);
        break;
      }
      case 't':
        stamps_ = !stamps_;
        at_line_start_ = true;
        std::timespec_get(&since_, TIME_UTC);
        break;
      default: break;
    }
  }

  // Line by line, each after "[hours:minutes:seconds.thousandths] " since stamps were asked for.
  usize write_stamped(std::span<const u8> bytes) {
    usize done = 0;
    while (done < bytes.size()) {
      if (at_line_start_) {
        timespec now{};
        std::timespec_get(&now, TIME_UTC);
        const i64 ms = (i64(now.tv_sec) - since_.tv_sec) * 1000 + (now.tv_nsec - since_.tv_nsec) / 1'000'000;
        const std::string stamp = format("[{:02}:{:02}:{:02}.{:03}] ", ms / 3'600'000, ms / 60'000 % 60, ms / 1000 % 60, ms % 1000);
        const std::span text{reinterpret_cast<const u8*>(stamp.data()), stamp.size()};
        if (stamp_done_ >= text.size()) stamp_done_ = 0;
        stamp_done_ += base_->write(text.subspan(stamp_done_));
        if (stamp_done_ < text.size()) return done;
        stamp_done_ = 0;
        at_line_start_ = false;
      }
      const auto rest = bytes.subspan(done);
      const auto end = std::ranges::find(rest, u8('\n'));
      const usize line = usize(end - rest.begin()) + (end != rest.end());
      const usize n = base_->write(rest.first(line));
      done += n;
      if (n < line) return done;
      at_line_start_ = rest[line - 1] == '\n';
    }
    return done;
  }

  Ref<Chardev> base_;
  std::vector<Front> fronts_;
  CharFrontEnd* told_ = nullptr;  // who was told last that the keyboard is its own
  u8 key_ = escape_key;
  bool key_before_ = false, stamps_ = false, at_line_start_ = true;
  usize stamp_done_ = 0;
  timespec since_{};
};
constinit const TypeInfo MuxChardev::type{.name = "chardev-mux",
                                          .doc = "One back end shared by several front ends.",
                                          .parent = &Chardev::type,
                                          .make = make<MuxChardev>,
                                          .user_creatable = false};
const Registered registered{MuxChardev::type};

}  // namespace

template <>
inline constexpr std::array fields<MuxOptions> = {field<&MuxOptions::chardev>("chardev", "Back end to share.")};

Result<Ref<Chardev>> make_mux(Ref<Chardev> base) {
  auto mux = make_object<MuxChardev>();
  TRY(mux->open(std::move(base)));
  return Ref<Chardev>{mux};
}
void set_mux_actions(std::function<void()> quit, std::function<void()> save) { actions() = {std::move(quit), std::move(save)}; }
void set_escape_key(u8 key) { escape_key = key; }

namespace {
Result<Ref<Chardev>> make_mux_from_options(EventLoop&, const std::string&, const Value& value) {
  const auto options = TRY(read_options<MuxOptions>(value));
  if (!options.chardev) return fail("chardev: mux: no chardev given");
  Chardev* base = find_chardev(*options.chardev);
  if (!base) return fail("mux: base chardev {} not found", *options.chardev);
  return make_mux(Ref<Chardev>{base});
}
const RegisteredChardev kind_mux{
    {.name = "mux", .doc = "several front ends on one", .options = fields<MuxOptions>, .make = make_mux_from_options}};
}  // namespace
}  // namespace vmm
