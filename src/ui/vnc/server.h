// Remote screens by VNC: the sockets, the viewers on them, passwords. `-vnc`, query-vnc and their kin. Main loop, machine lock held.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "src/event/event_loop.h"
#include "src/value/field.h"

namespace vmm::ui::vnc {

// Keys of -vnc.
struct Options {
  std::string vnc;  // "host:display", "unix:path", "none"
  std::string id = "default";
  std::optional<u16> to;  // last display to try
  std::optional<bool> password, lossy, non_adaptive, power_control, ipv4, ipv6;
  std::optional<std::string> password_secret, share, audiodev, websocket;
  std::optional<u32> key_delay_ms, connections;
};

// What all servers show and type on.
struct Surroundings {
  EventLoop* loop = nullptr;
  TimeDomain* domain = nullptr;
  std::string guest_name, layout;
};

// Listens; "none" opens nothing. The display that was got (with `to`) is in query-vnc.
Result<> open(const Surroundings& surroundings, const Options& options);
void close_all();

}  // namespace vmm::ui::vnc

namespace vmm {
template <>
inline constexpr std::array fields<ui::vnc::Options> = {
    field<&ui::vnc::Options::vnc>("vnc", "Where to listen: HOST:DISPLAY (port 5900 + DISPLAY), unix:PATH, or none."),
    field<&ui::vnc::Options::id>("id", "Name of this server.", {.optional = true}),
    field<&ui::vnc::Options::to>("to", "Last display number to try.", {.max = 59635}),
    field<&ui::vnc::Options::password>("password", "Viewers must know the password that a monitor sets."),
    field<&ui::vnc::Options::password_secret>("password-secret", "Object that holds the password."),
    field<&ui::vnc::Options::share>("share", "allow-exclusive, force-shared or ignore."),
    field<&ui::vnc::Options::websocket>("websocket", "Websockets too: on (port 5700 + DISPLAY), or a port."),
    field<&ui::vnc::Options::audiodev>("audiodev", "Audio back end (accepted; no sound is sent)."),
    field<&ui::vnc::Options::lossy>("lossy", "Lossy encodings may be used (there are none)."),
    field<&ui::vnc::Options::non_adaptive>("non-adaptive", "No adaptive encodings (there are none)."),
    field<&ui::vnc::Options::power_control>("power-control", "Viewers may reset and shut down (accepted; not offered to them)."),
    field<&ui::vnc::Options::ipv4>("ipv4", "IPv4 only."),
    field<&ui::vnc::Options::ipv6>("ipv6", "IPv6 only."),
    field<&ui::vnc::Options::key_delay_ms>("key-delay-ms", "Pause between keys (accepted)."),
    field<&ui::vnc::Options::connections>("connections", "Viewers at most that are not let in yet."),
};
}  // namespace vmm
