// The keys of the options that are lists of keys, with their help texts.
#pragma once

#include "src/main/options.h"
#include "src/value/field.h"

namespace vmm {
template <>
inline constexpr std::array fields<cli::SmpKeys> = {
    field<&cli::SmpKeys::cpus>("cpus", "CPUs at the start", {.min = 1, .max = 1024}),
    field<&cli::SmpKeys::sockets>("sockets", "sockets of the board", {.min = 1, .max = 1024}),
    field<&cli::SmpKeys::dies>("dies", "dies of a socket", {.min = 1, .max = 1024}),
    field<&cli::SmpKeys::clusters>("clusters", "clusters of a die; must be 1", {.min = 1, .max = 1}),
    field<&cli::SmpKeys::cores>("cores", "cores of a die", {.min = 1, .max = 1024}),
    field<&cli::SmpKeys::threads>("threads", "threads of a core", {.min = 1, .max = 1024}),
    field<&cli::SmpKeys::maxcpus>("maxcpus", "CPUs at most, with those that may be plugged later", {.min = 1, .max = 1024}),
};
template <>
inline constexpr std::array fields<cli::MemoryKeys> = {
    field<&cli::MemoryKeys::size>("size", "size at the start; a bare number is MiB"),
    field<&cli::MemoryKeys::slots>("slots", "slots for memory that may be plugged later", {.max = 256}),
    field<&cli::MemoryKeys::maxmem>("maxmem", "size at most, with what may be plugged later"),
};
template <>
inline constexpr std::array fields<cli::NameKeys> = {
    field<&cli::NameKeys::guest>("guest", "the guest's name", {.optional = true}),
    field<&cli::NameKeys::process>("process", "the process's name", {.optional = true}),
    field<&cli::NameKeys::debug_threads>("debug-threads", "name the threads", {.optional = true}),
};
template <>
inline constexpr std::array fields<cli::RtcKeys> = {
    field<&cli::RtcKeys::base>("base", "utc, localtime, or a date as 2006-06-17T16:01:21", {.optional = true}),
    field<&cli::RtcKeys::clock>("clock", "host, rt or vm", {.optional = true}),
    field<&cli::RtcKeys::driftfix>("driftfix", "none or slew", {.optional = true}),
};
template <>
inline constexpr std::array fields<cli::BootKeys> = {
    field<&cli::BootKeys::order>("order", "drives: floppy (a), disk (c), CD-ROM (d), network (n)", {.optional = true}),
    field<&cli::BootKeys::once>("once", "drives for the first boot only", {.optional = true}),
    field<&cli::BootKeys::menu>("menu", "offer a boot menu", {.optional = true}),
    field<&cli::BootKeys::splash>("splash", "picture shown by the firmware", {.optional = true}),
    field<&cli::BootKeys::splash_time>("splash-time", "how long, in milliseconds", {.min = 0, .max = 65535}),
    field<&cli::BootKeys::reboot_timeout>("reboot-timeout", "milliseconds until a failed boot is tried again; -1: never",
                                          {.min = -1, .max = 65535}),
    field<&cli::BootKeys::strict>("strict", "boot from devices with a bootindex only", {.optional = true}),
};
template <>
inline constexpr std::array fields<cli::OvercommitKeys> = {
    field<&cli::OvercommitKeys::mem_lock>("mem-lock", "lock guest memory", {.optional = true}),
    field<&cli::OvercommitKeys::cpu_pm>("cpu-pm", "let guests control the host CPU's power states", {.optional = true}),
};
template <>
inline constexpr std::array fields<cli::TraceKeys> = {
    field<&cli::TraceKeys::enable>("enable", "events to turn on, '*' and '?' as in file names; '-' before it: off", {.optional = true}),
    field<&cli::TraceKeys::events>("events", "file of such patterns, one a line", {.optional = true}),
    field<&cli::TraceKeys::file>("file", "write the log to this file", {.optional = true}),
};
template <>
inline constexpr std::array fields<cli::MessageKeys> = {
    field<&cli::MessageKeys::timestamp>("timestamp", "the time before each message", {.optional = true}),
    field<&cli::MessageKeys::guest_name>("guest-name", "the guest's name before each message", {.optional = true}),
};
template <>
inline constexpr std::array fields<cli::ActionKeys> = {
    field<&cli::ActionKeys::reboot>("reboot", "reset or shutdown"),
    field<&cli::ActionKeys::shutdown>("shutdown", "poweroff or pause"),
    field<&cli::ActionKeys::panic>("panic", "none, pause, shutdown or exit-failure"),
    field<&cli::ActionKeys::watchdog>("watchdog", "reset, shutdown, poweroff, pause, debug, none or inject-nmi"),
};
template <>
inline constexpr std::array fields<cli::FwCfgKeys> = {
    field<&cli::FwCfgKeys::name>("name", "name of the item", {.optional = true}),
    field<&cli::FwCfgKeys::file>("file", "file that holds the data"),
    field<&cli::FwCfgKeys::string>("string", "the data itself"),
    field<&cli::FwCfgKeys::gen_id>("gen_id", "object that makes the data"),
};
template <>
inline constexpr std::array fields<cli::AddFdKeys> = {
    field<&cli::AddFdKeys::fd>("fd", "descriptor that the parent handed down"),
    field<&cli::AddFdKeys::set>("set", "number of the set"),
    field<&cli::AddFdKeys::opaque>("opaque", "text that query-fdsets shows"),
};
template <>
inline constexpr std::array fields<cli::GlobalKeys> = {
    field<&cli::GlobalKeys::driver>("driver", "type of device"),
    field<&cli::GlobalKeys::property>("property", "its property"),
    field<&cli::GlobalKeys::value>("value", "the value"),
};
template <>
inline constexpr std::array fields<cli::AudioKeys> = {
    field<&cli::AudioKeys::driver>("driver", "kind of audio back end"),
    field<&cli::AudioKeys::id>("id", "its name"),
    field<&cli::AudioKeys::timer_period>("timer-period", "microseconds between two looks at the cards"),
};
template <>
inline constexpr std::array fields<cli::MonitorKeys> = {
    field<&cli::MonitorKeys::chardev>("chardev", "id of the character device"),
    field<&cli::MonitorKeys::mode>("mode", "readline or control", {.optional = true}),
    field<&cli::MonitorKeys::id>("id", "name of the monitor"),
    field<&cli::MonitorKeys::pretty>("pretty", "pretty-printed answers", {.optional = true}),
};
}  // namespace vmm
