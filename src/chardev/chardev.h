// Character back ends. A Chardev (object under /chardevs/ID) carries bytes between a host end and one front end (a UART, a monitor);
// `mux` shares one back end among several. All on the main loop, machine lock held. Source of behaviour: contract.md §7.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "src/event/event_loop.h"
#include "src/object/object.h"

namespace vmm {

enum class ChardevEvent : u8 { opened, closed, break_, mux_in, mux_out };

class Chardev;

// The device's or monitor's side.
class CharFrontEnd {
 public:
  virtual ~CharFrontEnd() = default;
  // How many bytes it can take now; the back end reads no more than this, and asks again when accept_input() is called.
  virtual usize can_receive() = 0;
  virtual void receive(std::span<const u8> bytes) = 0;
  virtual void char_event(ChardevEvent) {}
  // Output that the back end refused may be tried again.
  virtual void can_send() {}
  // On a mux the front end that is attached last has the keyboard; a monitor (false) leaves it to a device that is there already.
  virtual bool takes_focus() const { return true; }
  // chardev-change: may its back end be exchanged, and which one it has now (attached after this call).
  virtual bool may_change() const { return false; }
  virtual void changed(Chardev&) {}
};

class Chardev : public Object {
 public:
  static const TypeInfo type;
  ~Chardev() override;
  // One front end at a time; error "in use". `detach` forgets it.
  virtual Result<> attach(CharFrontEnd& front);
  virtual void detach(CharFrontEnd& front);
  CharFrontEnd* front() const { return front_; }

  // Writes what the host end takes now and returns how much (0..size); after a short write, front()->can_send() follows when there is
  // room. A disconnected socket takes and drops everything.
  virtual usize write(std::span<const u8> bytes) = 0;
  // For front ends without flow control (debug console, monitor text): all of it, queued up to 1 MiB, the oldest dropped beyond.
  void write_all(std::span<const u8> bytes);
  void accept_input() { update_input(); }  // the front end can take more
  virtual void set_break(bool) {}
  virtual void set_open(bool on) { front_open_ = on; }  // front end's DTR-like state
  bool front_open() const { return front_open_; }
  virtual std::string filename() const = 0;  // query-chardev: "pty:/dev/pts/3", "unix:/x,server=on"
  virtual bool is_mux() const { return false; }
  virtual Result<> may_remove() const override;
  std::string label() const { return name(); }
  bool connected() const { return open_; }
  virtual void echr(u8 /*key*/) {}
  // What comes by it commands this process: a unix socket by a path serves only our own user and root from now on.
  virtual void keep_to_own_user() {}
  virtual void set_echo(bool) {}         // stdio on a terminal: QMP wants what is typed to be seen
  virtual Fd take_fd() { return Fd{}; }  // the oldest descriptor that came by SCM_RIGHTS
  // ringbuf only.
  virtual std::vector<u8> read_stored(usize /*most*/) { return {}; }
  virtual bool stores() const { return false; }

  // Output is also kept in a file; fails if that cannot be opened.
  Result<> open_log(const std::string& path, bool append);

 protected:
  virtual void update_input() = 0;          // start or stop reading by front()->can_receive()
  void deliver(std::span<const u8> bytes);  // to the front end
  void event(ChardevEvent e);
  void log(std::span<const u8> bytes);  // what the host end has taken
  // write() asks first: text queued by write_all() goes before, and then the front end waits.
  bool must_wait();
  void output_ready();  // the host end takes more
  bool output_wanted() const { return blocked_ || !queue_.empty(); }
  void was_short() { blocked_ = true; }
  CharFrontEnd* front_ = nullptr;
  bool open_ = false;
  std::vector<u8> queue_;

 private:
  bool blocked_ = false, draining_ = false, front_open_ = false;
  Fd log_;
};

// Makes a back end from the options of `-chardev` (a Value object with "backend", "id" and its keys) on the main loop, and adds it
// under /chardevs. Errors are the user's.
Result<Ref<Chardev>> make_chardev(EventLoop& main_loop, const Value& options);
// The legacy word form of -serial/-monitor/-qmp ("stdio", "mon:stdio", "pty", "unix:P,server=on,wait=off", "tcp::4444,server", "file:P",
// "null", "none", "chardev:ID", "vc"): options for make_chardev. "none" gives a null Value.
Result<Value> chardev_options_from_legacy(std::string_view text, std::string_view id);
Chardev* find_chardev(std::string_view id);
std::vector<Chardev*> all_chardevs();
// Names of back ends, as `-chardev help` and query-chardev-backends list them.
std::vector<std::string> chardev_backend_names();
// Options of chardev-add ({"type": …, "data": {…}}) as make_chardev takes them.
Result<Value> chardev_options_from_qmp(std::string_view id, const Value& backend);
// What the mux keys x (end the emulator) and s (write disks back) do; set once by who can.
void set_mux_actions(std::function<void()> quit, std::function<void()> save);
void set_escape_key(u8 key);  // -echr, for muxes made later
// Restores terminals; also called from crash paths (async-signal-safe).
void restore_terminals() noexcept;

}  // namespace vmm
