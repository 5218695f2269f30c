//! Addresses of interfaces, through the kernel's netlink.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockaddrStorage;
use rtnetlink::{AddressMessageBuilder, Handle, new_connection};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::limits::NETLINK_MAX;

/// Linux's value for an address that has no end.
const FOREVER: u32 = u32::MAX;

/// A socket to the kernel's network configuration, of the network namespace that it was made in.
pub(crate) struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (connection, handle, _) = new_connection()?;
        drop(entered);
        // It moves only while a request waits for it.
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// Makes an address one of the interface's, or changes until when it is. The kernel itself
    /// takes it off after `valid_s` seconds, a second late at most, whatever became of us.
    pub(crate) fn put(
        &self,
        interface: &str,
        address: IpAddr,
        valid_s: Option<u32>,
    ) -> io::Result<()> {
        let index = if_nametoindex(interface)?;
        let mut request = self.handle.address().add(index, address, whole(address)).replace();
        let valid = valid_s.unwrap_or(FOREVER);
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = valid;
        lifetime.ifa_preferred = valid;
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::CacheInfo(lifetime));
        // The lease already says that nobody else has it; looking for duplicates takes a second.
        attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        self.wait_for(request.execute())
    }

    /// Takes an address off the interface, with whatever prefix it has there. Returns whether it
    /// was there.
    pub(crate) fn remove(&self, interface: &str, address: IpAddr) -> io::Result<bool> {
        let mut was_there = false;
        for prefix in prefixes(interface, address)? {
            let index = if_nametoindex(interface)?;
            let message = message(index, address, prefix);
            match self.wait_for(self.handle.address().del(message).execute()) {
                Ok(()) => was_there = true,
                // Its time has come by itself, or its interface is gone.
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(was_there)
    }

    fn wait_for(
        &self,
        request: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> io::Result<()> {
        let limited = self.runtime.block_on(async { timeout(NETLINK_MAX, request).await });
        match limited {
            Ok(Ok(())) => Ok(()),
            Ok(Err(rtnetlink::Error::NetlinkError(refusal))) => Err(refusal.to_io()),
            Ok(Err(other)) => Err(io::Error::other(other)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Where an address stands on this host, beside loopback.
///
/// # Errors
/// When the kernel does not tell.
pub fn interfaces_with(address: IpAddr) -> io::Result<Vec<String>> {
    let all = getifaddrs()?;
    let has_it = all.filter(|one| one.address.as_ref().and_then(ip) == Some(address));
    let names = has_it.map(|one| one.interface_name);
    Ok(names.filter(|name| name != crate::LOOPBACK).collect())
}

fn prefixes(interface: &str, address: IpAddr) -> io::Result<Vec<u8>> {
    let all = getifaddrs()?.filter(|one| one.interface_name == interface);
    let ours = all.filter(|one| one.address.as_ref().and_then(ip) == Some(address));
    Ok(ours.map(|one| one.netmask.as_ref().and_then(ip).map_or(whole(address), ones)).collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
}

fn ones(mask: IpAddr) -> u8 {
    let count = match mask {
        IpAddr::V4(mask) => mask.to_bits().count_ones(),
        IpAddr::V6(mask) => mask.to_bits().count_ones(),
    };
    u8::try_from(count).unwrap_or_default()
}

/// An address alone, without a network around it.
fn whole(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    match address {
        IpAddr::V4(address) => {
            AddressMessageBuilder::<std::net::Ipv4Addr>::new().index(index).address(address, prefix)
        }
        .build(),
        IpAddr::V6(address) => {
            AddressMessageBuilder::<std::net::Ipv6Addr>::new().index(index).address(address, prefix)
        }
        .build(),
    }
}

fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error();
    [Errno::ADDRNOTAVAIL, Errno::NODEV].map(|errno| Some(errno.raw_os_error())).contains(&code)
}
