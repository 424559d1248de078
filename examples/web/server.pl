#!/usr/bin/perl
# One page, served from memory. Perl is in every Debian base, so that nothing need be installed.
use strict;
use warnings;
use IO::Socket::INET;

my ($port, $file) = @ARGV;
open my $source, '<', $file or die "$file: $!\n";
my $page = do { local $/; <$source> };
my $server = IO::Socket::INET->new(LocalPort => $port, Listen => 64, ReuseAddr => 1) or die "port $port: $@\n";
my $head = "HTTP/1.0 200 OK\r\nContent-Type: text/html\r\nContent-Length: " . length($page) . "\r\n\r\n";
$SIG{TERM} = sub { exit 0 };
$SIG{PIPE} = 'IGNORE';
$| = 1;
print "serving $file on port $port\n";
while (1) {
    my $client = $server->accept or next;
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
    print $client $head, $page;
    close $client;
}
