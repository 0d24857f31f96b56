// Character back ends. A Chardev (object under /chardevs/ID) carries bytes between a host end and one front end (a UART, a monitor);
// `mux` shares one back end among several. All on the main loop, machine lock held. Source of behaviour: contract.md §7.
#pragma once

#include <span>
#include <string>

#include "src/event/event_loop.h"
#include "src/object/object.h"

namespace vmm {

enum class ChardevEvent : u8 { opened, closed, break_, mux_in, mux_out };

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
};

class Chardev : public Object {
 public:
  static const TypeInfo type;
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
  virtual void set_open(bool) {}             // front end's DTR-like state
  virtual std::string filename() const = 0;  // query-chardev: "pty:/dev/pts/3", "unix:/x,server=on"
  virtual bool is_mux() const { return false; }
  std::string label() const { return name(); }
  bool connected() const { return open_; }
  virtual void echr(u8 /*key*/) {}

 protected:
  virtual void update_input() = 0;          // start or stop reading by front()->can_receive()
  void deliver(std::span<const u8> bytes);  // to the front end and the logfile
  void event(ChardevEvent e);
  CharFrontEnd* front_ = nullptr;
  bool open_ = false;
  std::vector<u8> queue_;
};

// Makes a back end from the options of `-chardev` (a Value object with "backend", "id" and its keys) on the main loop, and adds it
// under /chardevs. Errors are the user's.
Result<Ref<Chardev>> make_chardev(EventLoop& main_loop, const Value& options);
// The legacy word form of -serial/-monitor/-qmp ("stdio", "mon:stdio", "pty", "unix:P,server=on,wait=off", "tcp::4444,server", "file:P",
// "null", "none", "chardev:ID", "vc"): options for make_chardev. "none" gives a null Value.
Result<Value> chardev_options_from_legacy(std::string_view text, std::string_view id);
Chardev* find_chardev(std::string_view id);
std::vector<Chardev*> all_chardevs();
// Restores terminals; also called from crash paths (async-signal-safe).
void restore_terminals() noexcept;

}  // namespace vmm
